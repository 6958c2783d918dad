"""Contact roles: the one attribute of a link that is a lookup, sent as an id and shown as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        """Give the role that a seed or a test names by id, by name or as an object, adding it when it is new."""
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
        """Give the attributes of a link as they are shown, learning the role among them."""
        role = attributes.get(CONTACT_ROLE)
        return {**attributes, **({} if role is None else {CONTACT_ROLE: self.learn(role)})}
