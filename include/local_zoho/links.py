"""The links of one relation, readable from both of its sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        """Say whether two records are linked."""
        return other in self._sides[inverse].get(one, ())

    def of(self, one: str, *, inverse: bool) -> dict[str, Attributes]:
        """Give the records linked to one record, with the attributes of each link, oldest first."""
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
