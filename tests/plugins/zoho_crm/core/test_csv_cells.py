"""No cell of a file becomes a formula."""

from __future__ import annotations

import pytest

from zoho_crm.core.csv_cells import safe_cell


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("c-1", "c-1"),
        (7, "7"),
        (None, ""),
        ("", ""),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        (-1, "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("'=1", "'=1"),
        ("a=1", "a=1"),
    ],
)
def test_safe_cell(value: object, cell: str) -> None:
    assert safe_cell(value) == cell
