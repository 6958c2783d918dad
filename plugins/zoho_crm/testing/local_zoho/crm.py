"""The records and links of one local CRM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoho_crm.testing.local_zoho.seed import Module, RelatedList


Attributes = dict[str, Any]


class Links:
    """
    A many-to-many relation between the records of a left and a right module.

    Each link may carry attributes, such as ``Contact_Role`` between a contact and a deal. ``inverse`` says that
    ``one`` is the right record and ``other`` the left one: a link seen from either side is the same link.
    """

    def __init__(self) -> None:
        self._sides: tuple[dict[str, dict[str, Attributes]], dict[str, dict[str, Attributes]]] = ({}, {})

    def add(self, one: str, other: str, attributes: Attributes, *, inverse: bool) -> None:
        """Link two records, or change the attributes of their link."""
        known = self._sides[inverse].get(one, {}).get(other, {})
        merged = {**known, **attributes}
        self._sides[inverse].setdefault(one, {})[other] = merged
        self._sides[not inverse].setdefault(other, {})[one] = merged

    def remove(self, one: str, other: str, *, inverse: bool) -> bool:
        """Remove a link; False when there is none."""
        others = self._sides[inverse].get(one)
        if others is None or others.pop(other, None) is None:
            return False
        self._sides[not inverse][other].pop(one)
        return True

    def has(self, one: str, other: str, *, inverse: bool) -> bool:
        """Return whether two records are linked."""
        return other in self._sides[inverse].get(one, ())

    def of(self, one: str, *, inverse: bool) -> dict[str, Attributes]:
        """Return the records linked to one record, with the attributes of each link, oldest first."""
        return self._sides[inverse].get(one, {})

    def drop(self, one: str, *, inverse: bool) -> None:
        """Remove every link of one record."""
        for other in list(self.of(one, inverse=inverse)):
            self.remove(one, other, inverse=inverse)

    def __iter__(self) -> Iterator[tuple[str, str, Attributes]]:
        for left, others in list(self._sides[0].items()):
            for right, attributes in list(others.items()):
                yield left, right, attributes

    def __len__(self) -> int:
        return sum(map(len, list(self._sides[0].values())))


CONTACT_ROLE = "Contact_Role"

DEFAULT_ROLES = {
    "4876876000000006871": "Developer/Evaluator",
    "4876876000000006873": "Decision Maker",
    "4876876000000006875": "Purchasing",
    "4876876000000006877": "Executive Sponsor",
}

FIRST_ROLE_ID = 4_876_876_000_000_007_001


class Roles:
    """The contact roles of an org, by id."""

    def __init__(self) -> None:
        self._names = dict(DEFAULT_ROLES)

    def find(self, value: object) -> dict[str, str] | None:
        """Find a role as a call names it: by its id, alone or in an object; None when there is none."""
        role_id = value.get("id") if isinstance(value, Mapping) else value
        name = self._names.get(role_id) if isinstance(role_id, str) else None
        return {"name": name, "id": str(role_id)} if name is not None else None

    def learn(self, value: object) -> dict[str, str]:
        """Return the role that a seed or a test names by id, by name or as an object, adding it when it is new."""
        found = self.find(value)
        if found is not None:
            return found
        if isinstance(value, Mapping):
            role_id, name = str(value["id"]), str(value.get("name", value["id"]))
        else:
            name = str(value)
            known = (role_id for role_id, held in self._names.items() if held == name)
            role_id = next(known, str(FIRST_ROLE_ID + len(self._names)))
        self._names[role_id] = name
        return {"name": name, "id": role_id}

    def shown(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes of a link as they are shown, learning the role among them."""
        role = attributes.get(CONTACT_ROLE)
        return {**attributes, **({} if role is None else {CONTACT_ROLE: self.learn(role)})}


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
        self.modules: dict[str, Module] = {}
        self.locked: set[str] = set()
        self.roles = Roles()
        self._records: dict[str, dict[str, Record]] = {}
        self._by_external: dict[tuple[str, str], dict[str, str]] = {}
        self._links: dict[str, Links] = {}
        self._next_id = FIRST_RECORD_ID
        for module in modules:
            self.add_module(module)

    def add_module(self, module: Module) -> None:
        """Add a module, or replace the fields and lists of a known one; its records and links stay."""
        self.modules[module.api_name] = module
        self._records.setdefault(module.api_name, {})
        for one in module.fields.values():
            if one.external:
                self._by_external.setdefault((module.api_name, one.api_name), {})
        for listed in module.related_lists.values():
            if listed.relation:
                self._links.setdefault(listed.relation, Links())

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
        """Return every record of a module, oldest first."""
        return list(self._records[module].values())

    def count(self, module: str) -> int:
        """Count the records of a module."""
        return len(self._records[module])

    def external_id(self, module: str, field: str, value: str) -> str | None:
        """Find the id of the record with an external value; values compare exactly, case and blanks included."""
        return self._by_external[module, field].get(value)

    def is_external(self, module: str, field: str) -> bool:
        """Return whether a field is an external field of the module."""
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
        """Return the links behind a related list."""
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
        """Remove a link without the API; False when there is none."""
        listed, parent_id, related_id = self._ends(module, key, related_list, related_key)
        return self.links_of(listed).remove(parent_id, related_id, inverse=listed.inverse)

    def linked(self, module: str, key: str, related_list: str, related_key: str) -> bool:
        """Return whether two records are linked."""
        listed, parent_id, related_id = self._ends(module, key, related_list, related_key)
        return self.links_of(listed).has(parent_id, related_id, inverse=listed.inverse)

    def links(self, module: str, related_list: str) -> set[tuple[str, str]]:
        """Return all links of a list as pairs of keys: parent, related record."""
        listed = self._list(module, related_list)
        pairs = (
            (right, left) if listed.inverse else (left, right) for left, right, _ in self.links_of(listed)
        )
        return {(self.key_of(module, one), self.key_of(listed.module or "", other)) for one, other in pairs}

    def to_json(self) -> list[dict[str, Any]]:
        """Return every link once, seen from the left side of its relation."""
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
