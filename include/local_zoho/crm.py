"""The records and links of one local CRM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.local_zoho.links import Attributes, Links
from include.local_zoho.roles import Roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from include.local_zoho.catalogue import Module, RelatedList

Record = dict[str, Any]

FIRST_RECORD_ID = 4_876_876_000_000_100_001


class Crm:
    """
    Modules, records and links.

    Helpers for tests name a record by its *key*: the value of its module's first external field, or its record id.
    They may be called from another thread than the server's: each is one step for the interpreter's lock or
    touches one record only.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        self.modules = {module.api_name: module for module in modules}
        self.locked: set[str] = set()
        self.roles = Roles()
        self._records: dict[str, dict[str, Record]] = {name: {} for name in self.modules}
        self._by_external: dict[tuple[str, str], dict[str, str]] = {}
        self._links: dict[str, Links] = {}
        self._next_id = FIRST_RECORD_ID
        for module in self.modules.values():
            self._by_external |= {
                (module.api_name, one.api_name): {} for one in module.fields.values() if one.external
            }
            self._links |= {one.relation: Links() for one in module.related_lists.values() if one.relation}

    def add_record(
        self, module: str, values: Mapping[str, Any] | None = None, *, record_id: str | None = None
    ) -> str:
        """
        Add a record.

        :param values: values by field, external fields among them.
        :param record_id: a numeric id; a new one of 19 digits by default.
        :return: the record id.
        :raises ValueError: when another record has the id, or the external value: external fields are unique.
        """
        if record_id is None:
            record_id = str(self._next_id)
            self._next_id += 1
        if record_id in self._records[module]:
            msg = f"{module} has a record {record_id} already"
            raise ValueError(msg)
        record: Record = {**(values or {}), "id": record_id}
        fields = [
            field for owner, field in self._by_external if owner == module and record.get(field) is not None
        ]
        for field in fields:
            record[field] = str(record[field])
            if record[field] in self._by_external[module, field]:
                msg = f"{module}.{field} has the value {record[field]!r} already"
                raise ValueError(msg)
        for field in fields:
            self._by_external[module, field][record[field]] = record_id
        self._records[module][record_id] = record
        return record_id

    def delete_record(self, module: str, record_id: str) -> bool:
        """Delete a record and every link of it; False when there is none."""
        record = self._records[module].pop(record_id, None)
        if record is None:
            return False
        for (owner, field), known in self._by_external.items():
            if owner == module:
                known.pop(record.get(field, ""), None)
        for owner_module in self.modules.values():
            for listed in owner_module.related_lists.values():
                if listed.relation and owner_module.api_name == module:
                    self._links[listed.relation].drop(record_id, inverse=listed.inverse)
                if listed.relation and listed.module == module:
                    self._links[listed.relation].drop(record_id, inverse=not listed.inverse)
        return True

    def record(self, module: str, record_id: str) -> Record | None:
        """Find a record by its id."""
        return self._records[module].get(record_id)

    def records(self, module: str) -> list[Record]:
        """Give every record of a module, oldest first."""
        return list(self._records[module].values())

    def count(self, module: str) -> int:
        """Count the records of a module."""
        return len(self._records[module])

    def external_id(self, module: str, field: str, value: str) -> str | None:
        """Find the id of the record with an external value; values compare exactly, case and blanks included."""
        return self._by_external[module, field].get(value)

    def is_external(self, module: str, field: str) -> bool:
        """Say whether a field is an external field of the module."""
        return (module, field) in self._by_external

    def find(self, module: str, key: str) -> str | None:
        """Find a record id by key."""
        field = self.modules[module].external_field
        by_value = self.external_id(module, field, key) if field else None
        return by_value or (key if key in self._records[module] else None)

    def key_of(self, module: str, record_id: str) -> str:
        """Name a record by its external value, or by its id when it has none."""
        field = self.modules[module].external_field
        return str(self._records[module].get(record_id, {}).get(field or "") or record_id)

    def links_of(self, listed: RelatedList) -> Links:
        """Give the links behind a related list."""
        if listed.relation is None:
            msg = f"the list {listed.api_name} has no links"
            raise KeyError(msg)
        return self._links[listed.relation]

    def link(
        self, module: str, key: str, related_list: str, related_key: str, attributes: Attributes | None = None
    ) -> None:
        """
        Link two records; a record that does not exist yet is added, with its key as external value.

        :param attributes: of the link, such as ``{"Contact_Role": "Decision Maker"}``; a role that is new is added.
        """
        listed = self._list(module, related_list)
        parent_id = self._find_or_add(module, key)
        related_id = self._find_or_add(listed.module or "", related_key)
        shown = self.roles.shown(attributes or {})
        self.links_of(listed).add(parent_id, related_id, shown, inverse=listed.inverse)

    def unlink(self, module: str, key: str, related_list: str, related_key: str) -> bool:
        """Remove a link behind the back of the API; False when there is none."""
        listed, parent_id, related_id = self._ends(module, key, related_list, related_key)
        return self.links_of(listed).remove(parent_id, related_id, inverse=listed.inverse)

    def linked(self, module: str, key: str, related_list: str, related_key: str) -> bool:
        """Say whether two records are linked."""
        listed, parent_id, related_id = self._ends(module, key, related_list, related_key)
        return self.links_of(listed).has(parent_id, related_id, inverse=listed.inverse)

    def links(self, module: str, related_list: str) -> set[tuple[str, str]]:
        """Give all links of a list as pairs of keys: parent, related record."""
        listed = self._list(module, related_list)
        pairs = (
            (right, left) if listed.inverse else (left, right) for left, right, _ in self.links_of(listed)
        )
        return {(self.key_of(module, one), self.key_of(listed.module or "", other)) for one, other in pairs}

    def to_json(self) -> list[dict[str, Any]]:
        """Give every link once, seen from the left side of its relation."""
        return [
            {
                "module": module.api_name,
                "external_id": self.key_of(module.api_name, left),
                "related_list": listed.api_name,
                "related_external_id": self.key_of(listed.module or "", right),
                "attributes": attributes,
            }
            for module, listed in self._left_lists()
            for left, right, attributes in self.links_of(listed)
        ]

    def _left_lists(self) -> Iterator[tuple[Module, RelatedList]]:
        for module in self.modules.values():
            for listed in module.related_lists.values():
                if listed.relation and not listed.inverse:
                    yield module, listed

    def _list(self, module: str, related_list: str) -> RelatedList:
        return self.modules[module].related_lists[related_list]

    def _find_or_add(self, module: str, key: str) -> str:
        found = self.find(module, key)
        if found is not None:
            return found
        field = self.modules[module].external_field
        return self.add_record(module, {field: key} if field else {"Name": key})

    def _ends(
        self, module: str, key: str, related_list: str, related_key: str
    ) -> tuple[RelatedList, str, str]:
        listed = self._list(module, related_list)
        return listed, self.find(module, key) or "", self.find(listed.module or "", related_key) or ""
