"""The pytest fixture ``fake_zoho``; import it in your ``conftest.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoho_crm.testing.fake import FakeZoho

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fake_zoho(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeZoho]:
    """Start a Zoho CRM without records, and set the connection ``zoho_crm_default`` to it."""
    with FakeZoho() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_ZOHO_CRM_DEFAULT", fake.connection)
        yield fake
