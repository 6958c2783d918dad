"""The relink form: which removed links of a run to relink."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoho_crm.core.links import MAX_EXTERNAL_ID_LENGTH, find_unsendable
from zoho_crm.core.run_request import parse_flag, parse_instant, parse_text
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from zoho_crm.core.run_request import RunRequest

MAX_ZOHO_CODE_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RelinkFilter:
    """
    Conditions on the removal of a link; all that are set must hold.

    :param external_id_prefix: how the external ID begins, compared literally and case-sensitively
    :param related_external_id_prefix: how the related external ID begins
    :param finished_from: earliest time of the removal, included; aware, in UTC
    :param finished_to: latest time of the removal, excluded; aware, in UTC
    :param zoho_code: code of Zoho's response to the removal, such as ``SUCCESS``
    """

    external_id_prefix: str | None = None
    related_external_id_prefix: str | None = None
    finished_from: datetime | None = None
    finished_to: datetime | None = None
    zoho_code: str | None = None


@dataclass(frozen=True, slots=True)
class RelinkRequest:
    """
    Which removed links to relink: those that match the filter, and are among ``links`` if there are any.

    :param run: an Airflow run id or a run key
    :param links: pasted pairs, or None
    :param filter: conditions on the removal of each link
    :param include_presumed: whether to relink links that the run is presumed to have removed as well
    """

    run: str
    links: Sequence[tuple[object, object]] | None = None
    filter: RelinkFilter = field(default_factory=RelinkFilter)
    include_presumed: bool = False


def parse_relink_request(params: Mapping[str, Any], request: RunRequest) -> RelinkRequest:
    """
    Parse the form of ``zoho_delink_relink``.

    :param params: the form's values: ``run``, ``include_presumed``, and those of :class:`RelinkFilter`
    :param request: what was parsed of its other fields, ``links`` among them
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    run = parse_text(params, "run")
    if run is None:
        raise ZohoConfigError("run: missing; give the run whose links to relink")
    return RelinkRequest(
        run=run,
        links=request.links,
        filter=parse_relink_filter(params),
        include_presumed=parse_flag(params, "include_presumed"),
    )


def parse_relink_filter(params: Mapping[str, Any]) -> RelinkFilter:
    """
    Parse the filter fields of the relink form; empty fields filter nothing.

    :param params: the form's values, under the names of :class:`RelinkFilter`
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    finished_from = parse_instant(params, "finished_from")
    finished_to = parse_instant(params, "finished_to")
    if finished_from is not None and finished_to is not None and finished_from >= finished_to:
        raise ZohoConfigError("finished_to: must be later than finished_from")
    return RelinkFilter(
        external_id_prefix=_parse_prefix(params, "external_id_prefix"),
        related_external_id_prefix=_parse_prefix(params, "related_external_id_prefix"),
        finished_from=finished_from,
        finished_to=finished_to,
        zoho_code=_parse_zoho_code(params),
    )


def _parse_prefix(params: Mapping[str, Any], name: str) -> str | None:
    """Return a prefix exactly as typed; messages leave it out, since it may be part of an ID."""
    value = params.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ZohoConfigError(f"{name}: must be text")
    if value != value.lstrip():
        raise ZohoConfigError(f"{name}: begins with a space, and no removed link's ID does; delete the space")
    _check_text(name, value, MAX_EXTERNAL_ID_LENGTH)
    return value


def _parse_zoho_code(params: Mapping[str, Any]) -> str | None:
    value = parse_text(params, "zoho_code")
    if value is not None:
        _check_text("zoho_code", value, MAX_ZOHO_CODE_LENGTH)
    return value


def _check_text(name: str, value: str, max_length: int) -> None:
    if len(value) > max_length:
        raise ZohoConfigError(f"{name}: {len(value)} characters; shorten it to at most {max_length}")
    if found := find_unsendable(value):
        raise ZohoConfigError(f"{name}: contains the {found}; delete it")
