"""A Zoho CRM on this machine, for tests of your own jobs and Dags."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from zoho_crm.testing.local_zoho.seed import Field, Module, RelatedList, default_connection
from zoho_crm.testing.local_zoho.server import LocalZoho

if TYPE_CHECKING:
    from types import TracebackType

    from zoho_crm.testing.local_zoho.state import LocalState


class Call(NamedTuple):
    """
    One request to the CRM.

    :param path: path as sent, percent-encoded
    :param status: HTTP status of the response; 0 if none was sent
    """

    method: str
    path: str
    status: int


class FakeZoho:
    """
    A Zoho CRM with real HTTP on 127.0.0.1, which a job reaches through its connection.

    ::

        with FakeZoho() as fake:
            os.environ["AIRFLOW_CONN_ZOHO_CRM_DEFAULT"] = fake.connection
            fake.link("Contacts", "c-1", "Deals", "d-1")
            ...  # run the job
            assert fake.links("Contacts", "Deals") == set()

    It has Zoho's standard modules, with external fields such as ``External_Contact_ID``; :meth:`add_relation` adds
    those of your org. Records are named by their external IDs.

    :param settings: behavior and limits, see :class:`zoho_crm.testing.local_zoho.settings.Settings`, for example
        ``concurrency_limit=5``
    """

    def __init__(self, **settings: Any) -> None:
        self._server = LocalZoho(**settings)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    @property
    def connection(self) -> str:
        """Airflow connection to this CRM in JSON, the value of a variable ``AIRFLOW_CONN_...``."""
        return json.dumps(default_connection(self._server.host, self._server.port))

    @property
    def calls(self) -> list[Call]:
        """The requests to the CRM in their order, without those for an access token."""
        journal = self.state.journal.requests
        return [Call(one.method, one.path, one.status) for one in journal if one.path.startswith("/crm/")]

    @property
    def state(self) -> LocalState:
        """Everything else that the CRM can do: faults, locked records, credits."""
        return self._server.state

    def add_relation(
        self,
        *,
        module: str,
        external_field: str,
        related_list: str,
        related_external_field: str,
        related_module: str | None = None,
    ) -> None:
        """
        Add modules, external fields and a related list of your org, before any of their records.

        The arguments are the fields of ``relation`` in a job file.

        :raises ValueError: a module has records already
        """
        related_module = related_module or related_list
        for name, field in ((module, external_field), (related_module, related_external_field)):
            if self.state.crm.modules.get(name) and self.state.crm.count(name):
                raise ValueError(f"{name} has records already; call add_relation before adding them")
            self._add_external_field(name, field)
        parent = self.state.crm.modules[module]
        listed = parent.related_lists.get(related_list)
        if listed is None or listed.module != related_module:
            listed = RelatedList(related_list, related_module, f"{module}_{related_list}")
            self.state.crm.add_module(
                replace(parent, related_lists={**parent.related_lists, related_list: listed})
            )

    def add_record(self, module: str, external_id: str) -> str:
        """
        Add a record.

        :param external_id: value of the module's external field
        :return: the record ID
        :raises ValueError: another record has the external ID, or the module no external field
        """
        known = self.state.crm.modules.get(module)
        if known is None or known.external_field is None:
            raise ValueError(f"{module} has no external field; add it with add_relation")
        return self.state.add_record(module, {known.external_field: external_id})

    def link(self, module: str, external_id: str, related_list: str, related_external_id: str) -> None:
        """Link two records, and add those that do not exist."""
        self.state.link(module, external_id, related_list, related_external_id)

    def links(self, module: str, related_list: str) -> set[tuple[str, str]]:
        """Return the links of a related list as pairs of external IDs."""
        return self.state.links(module, related_list)

    def _add_external_field(self, name: str, field: str) -> None:
        """Make a field the external field that records of a module are named by."""
        module = self.state.crm.modules.get(name) or Module(name, generated_type="custom")
        others = {other: one for other, one in module.fields.items() if other != field}
        fields = {field: Field(field, external="org"), **others}
        self.state.crm.add_module(replace(module, fields=fields))
