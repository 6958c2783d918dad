"""Cells of CSV files that people open in a spreadsheet."""

from __future__ import annotations

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: object) -> str:
    """
    Return a value as a cell that no spreadsheet takes for a formula: what looks like one gets an apostrophe first.

    Ids come from other systems, and a formula among them would run with the rights of whoever opens the file.

    :param value: None becomes an empty cell
    """
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_BEGINS_A_FORMULA) else text
