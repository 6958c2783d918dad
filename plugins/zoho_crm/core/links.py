"""Links between two records, and the rules for the ids and names they are made of."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote
from uuid import UUID

from zoho_crm.core.response import json_object
from zoho_crm.errors import PlanError, UnsafeRequestError, ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_EXTERNAL_ID_LENGTH = 255
"""Characters in a single-line field of Zoho CRM, which every external field is."""

REFUSED_LISTS = frozenset({"notes", "attachments", "locking_information__s"})
"""Related lists whose records exist only under their parent: a delink would delete them for good."""

DOCUMENTED_RELATIONS = {
    ("Appointments", "Services"): "Services",
    ("Appointments__s", "Services__s"): "Services__s",
    ("Campaigns", "Contacts"): "Contacts",
    ("Campaigns", "Leads"): "Leads",
    ("Contacts", "Deals"): "Deals",
    ("Deals", "Contact_Roles"): "Contacts",
    ("Products", "Accounts"): "Accounts",
    ("Products", "Contacts"): "Contacts",
    ("Products", "Deals"): "Deals",
    ("Products", "Leads"): "Leads",
    ("Products", "Price_Books"): "Price_Books",
}
"""
The relations that Zoho documents a delink for: module and related list, with the module of the related records.

``Contacts`` to ``Deals`` is documented by external IDs, ``Deals`` to ``Contact_Roles`` by record IDs on a page of its
own, the others by record IDs. ``Deals`` to ``Contacts`` is not: the list of a deal's contacts is ``Contact_Roles``.

Source: the pages "Delink Records", "Delete Related Records Using External ID" and "Remove Contact Role From a
Specific Deal" of https://www.zoho.com/crm/developer/docs/api/v7/.
"""

LINK_ATTRIBUTES = {
    ("Campaigns", "Contacts"): ("Member_Status",),
    ("Campaigns", "Leads"): ("Member_Status",),
    ("Contacts", "Deals"): ("Contact_Role",),
    ("Deals", "Contact_Roles"): ("Contact_Role",),
}
"""
Attributes of a link, by module and related list. They are lost when the link is removed.

Source: the pages "Update Related Records" and "Update Related Records Using External ID" of the same documentation.
"""

NO_ATTRIBUTES = "{}"
"""The snapshot of a link that does not exist, or that has no attributes."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_INVISIBLE = "\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
"""Characters without width, marks of the writing direction and of the byte order."""

_UNSENDABLE = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_INVISIBLE}]")
_TOO_LARGE = 10**MAX_EXTERNAL_ID_LENGTH


@dataclass(frozen=True, slots=True)
class Link:
    """
    One link, by the two external ids that the warehouse knows.

    :param external_id: external id of the parent record
    :param related_external_id: external id of the related record
    """

    external_id: str
    related_external_id: str


@dataclass(frozen=True)
class Relation:
    """
    The relation of links: from records of one module to records of another, over one related list.

    :param module: API name of the parent's module, e.g. ``Contacts``
    :param external_field: API name of the parent's external field
    :param related_list: API name of the related list on the parent, e.g. ``Deals``
    :param related_module: API name of the related records' module; it need not equal the list's name
    :param related_external_field: API name of the related records' external field
    :raises ZohoConfigError: a name is not an API name, or the list is one whose records would be deleted
    """

    module: str
    external_field: str
    related_list: str
    related_module: str
    related_external_field: str

    def __post_init__(self) -> None:
        for field in (
            "module",
            "external_field",
            "related_list",
            "related_module",
            "related_external_field",
        ):
            check_api_name(field, getattr(self, field))
        for field in ("related_list", "related_module"):
            value = getattr(self, field)
            if value.lower() in REFUSED_LISTS:
                raise ZohoConfigError(
                    f"{field} {value!r} is refused: its records exist only under their parent record, "
                    "so a delink would delete them"
                )

    @cached_property
    def x_external(self) -> str:
        """Value of the header X-EXTERNAL, which marks both ids as external: parent first, then related."""
        return f"{self.module}.{self.external_field},{self.related_module}.{self.related_external_field}"

    @property
    def label(self) -> str:
        """Short name of the relation, e.g. ``Contacts.Deals``."""
        return f"{self.module}.{self.related_list}"

    @property
    def is_documented(self) -> bool:
        """Whether Zoho documents a delink for this relation, and so which module its list holds."""
        return documented_module(self.module, self.related_list) == self.related_module

    def __str__(self) -> str:
        """Return the relation in one line."""
        return (
            f"{self.module}.{self.external_field} -> "
            f"{self.related_list} ({self.related_module}.{self.related_external_field})"
        )


def documented_module(module: str, related_list: str) -> str | None:
    """Return the module of the records in a list that Zoho documents a delink for; None for any other list."""
    return DOCUMENTED_RELATIONS.get((module, related_list))


def check_api_name(field: str, value: object) -> str:
    """
    Return ``value`` if it is an API name of a module, list or field of Zoho CRM.

    :param field: the name of the value for messages
    :raises ZohoConfigError: it is not a letter followed by up to 99 letters, digits and underscores
    """
    if isinstance(value, str) and is_api_name(value):
        return value
    raise ZohoConfigError(
        f"{field} {value!r} is not an API name of Zoho CRM: a letter, then letters, digits and underscores"
    )


def is_api_name(value: str) -> bool:
    """Whether a text can be the API name of a module, list or field."""
    return _NAME.fullmatch(value) is not None


def to_external_id(value: object) -> object:
    """
    Return a warehouse's value as the text of an external id where that is exact, else the value itself.

    Integers, integral decimals and UUIDs have one exact text. Floats and booleans have none, and stay what they
    are for :func:`external_id_fault` to refuse; so do numbers of more digits than an external id can have.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write out integers of thousands of digits.
        return str(value) if abs(value) < _TOO_LARGE else value
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < MAX_EXTERNAL_ID_LENGTH:
        return str(int(value)) if value == value.to_integral_value() else value
    if isinstance(value, UUID):
        return str(value)
    return value


def external_id_fault(value: object) -> str | None:
    """
    Return why a value cannot be sent as an external id, or None if it can.

    Refused are values that Zoho cannot store, and those that a server could read as another path: ``.`` and ``..``
    would turn the call into the deletion of a *record*, and percent-encoding does not protect them. A server may
    decode before it resolves, or normalize to ASCII (NFKC), so ``a/../..``, a leading or trailing slash and their
    full-width forms are refused too. All other values are allowed, and are quoted when the request is built.

    :return: a predicate, e.g. ``is blank``
    """
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"is not text but {type(value).__name__}"
    if not value or value.isspace():
        return "is blank"
    if len(value) > MAX_EXTERNAL_ID_LENGTH:
        return f"is longer than {MAX_EXTERNAL_ID_LENGTH} characters ({len(value)})"
    if _changes_address(value):
        return "holds a dot segment or a slash at an end, which could change the address"
    if found := find_unsendable(value):
        return f"holds the {found}"
    if value != value.strip():
        return "has leading or trailing spaces"
    return None


def find_unsendable(value: str) -> str | None:
    """
    Return the first character that no external ID can contain, or None.

    :return: its kind and code point, e.g. ``control character U+0000``
    """
    match = _UNSENDABLE.search(value)
    if match is None:
        return None
    point = ord(match[0])
    if 0xD800 <= point <= 0xDFFF:
        kind = "lone surrogate"
    else:
        kind = "control character" if point < 0xA0 else "invisible character"
    return f"{kind} U+{point:04X}"


def _changes_address(value: str) -> bool:
    """Whether a server that first decodes or normalizes could read an id as the path of another record."""
    for _ in range(3):
        if not value.isascii():
            # Turns full-width dots, slashes and percent signs, and the dots of leaders, into those of ASCII.
            value = unicodedata.normalize("NFKC", value)
        parts = [part.split(";", maxsplit=1)[0] for part in value.replace("\\", "/").split("/")]
        if not {".", ".."}.isdisjoint(parts) or not parts[0] or not parts[-1]:
            return True
        decoded = unquote(value)
        if decoded == value:
            return False
        value = decoded
    return False


def link_fault(external_id: object, related_external_id: object) -> str | None:
    """Return why a link cannot be sent, naming the invalid id, or None if it can."""
    if fault := external_id_fault(external_id):
        return f"external_id {fault}"
    if fault := external_id_fault(related_external_id):
        return f"related_external_id {fault}"
    return None


class CheckedLink(NamedTuple):
    """
    One row of a source after validation.

    :param external_id: the exact text of a valid ID, else a storable text of the value
    :param invalid_reason: None for a link that can be sent
    """

    pair_key: str
    external_id: str
    related_external_id: str
    invalid_reason: str | None


def check_links(rows: Iterable[tuple[object, object]], relation: Relation) -> Iterator[CheckedLink]:
    """
    Validate rows of a source and give each its key, by which duplicates are found.

    :param rows: pairs of external ID and related external ID, of whatever types the source has
    :raises PlanError: a row is not a pair
    """
    keys = PairKeys(relation)
    for row in rows:
        external_id, related_external_id = (_text_or_value(value) for value in _pair(row))
        reason = link_fault(external_id, related_external_id)
        if reason is None:
            parent, related = cast("str", external_id), cast("str", related_external_id)
            yield CheckedLink(keys.of(parent, related), parent, related, None)
        else:
            key = keys.of(_whole_text(external_id), _whole_text(related_external_id))
            yield CheckedLink(key, storable_text(external_id), storable_text(related_external_id), reason)


def _pair(row: tuple[object, object]) -> tuple[object, object]:
    try:
        external_id, related_external_id = row
    except (TypeError, ValueError) as error:
        raise PlanError(
            "a row of the source is not a pair of external_id and related_external_id: "
            "select just these two columns, in this order"
        ) from error
    return external_id, related_external_id


def _text_or_value(value: object) -> object:
    if type(value) is str:
        return value
    # The text itself, whatever the __str__ of a subclass (an enum, say) returns.
    return str.__str__(value) if isinstance(value, str) else to_external_id(value)


def _whole_text(value: object) -> str:
    if value is None:
        return ""
    try:
        return str(value)
    except Exception:
        # Such as an integer of thousands of digits, which Python refuses to format.
        return storable_text(value)


def storable_text(value: object) -> str:
    """
    Return any value as text that every database can store, for the row of an invalid link.

    Control characters, invisible characters and lone surrogates are written as escapes, long text is cut to 255
    characters. A value without text, such as an integer of thousands of digits, is stored as the name of its type.
    """
    try:
        text = "" if value is None else str(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    escaped = _UNSENDABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text[:MAX_EXTERNAL_ID_LENGTH])
    return escaped[:MAX_EXTERNAL_ID_LENGTH]


def pair_key(relation: Relation, external_id: str, related_external_id: str) -> str:
    """
    Return the key of a link: SHA-256 over its seven parts, each preceded by its length.

    The lengths keep pairs apart that a separator would confuse (``a|b``, ``c`` and ``a``, ``b|c``).

    :return: 64 hexadecimal digits, the same for the same link in every run
    """
    return PairKeys(relation).of(external_id, related_external_id)


class PairKeys:
    """Keys of many links of one relation: the relation is hashed once."""

    def __init__(self, relation: Relation) -> None:
        self._prefix = hashlib.sha256()
        for part in (
            relation.module,
            relation.external_field,
            relation.related_list,
            relation.related_module,
            relation.related_external_field,
        ):
            self._prefix.update(_length_prefixed(part))

    def of(self, external_id: str, related_external_id: str) -> str:
        """Return the key of one link as 64 hexadecimal digits."""
        digest = self._prefix.copy()
        digest.update(_length_prefixed(external_id) + _length_prefixed(related_external_id))
        return digest.hexdigest()


def snapshot_of(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    """
    Return the snapshot of a link: a JSON object of these fields, as Zoho returned them.

    :param record: the related record as a GET returned it
    :return: with sorted keys; fields that are missing or null are left out
    """
    kept = {name: record[name] for name in fields if record.get(name) is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def sendable_attributes(snapshot: str | None, relation: Relation) -> dict[str, Any]:
    """
    Return the attributes that a relink sends.

    A value that is an object with an ``id``, as Zoho returns lookups, is sent as that id. Ids, external fields and
    names that are not API names are never sent: they would change the record.

    :param snapshot: the snapshot of the link; None and ``{}`` without attributes
    :raises UnsafeRequestError: it is not a JSON object
    """
    if snapshot is None:
        return {}
    kept = json_object(snapshot.encode("utf-8", "surrogatepass"))
    if kept is None:
        raise UnsafeRequestError("The snapshot of this link cannot be read. Nothing was sent.")
    of_the_records = {"id", relation.external_field.lower(), relation.related_external_field.lower()}
    return {
        name: _to_sent_value(value)
        for name, value in kept.items()
        if value is not None and is_api_name(name) and name.lower() not in of_the_records
    }


def _to_sent_value(value: Any) -> Any:
    return value["id"] if isinstance(value, Mapping) and "id" in value else value


def _length_prefixed(part: str) -> bytes:
    raw = part.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(4, "big") + raw
