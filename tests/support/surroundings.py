"""In-memory Airflow Variables, and an environment without proxies and tokens. A pytest plugin."""

from __future__ import annotations

import threading
from typing import Any

import pytest

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class FakeVariable:
    """
    Stands in for ``airflow.sdk.Variable``; tasks on several threads share it.

    :param values: what is stored, for a test to read and change
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._lock = threading.Lock()

    def get(self, key: str, default: Any = None) -> Any:
        with self._lock:
            return self._values.get(key, default)

    def set(self, key: str, value: str) -> None:
        with self._lock:
            self._values[key] = value


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Keep Airflow's Variables in memory, and hide proxies, certificates and tokens of the environment."""
    from zoho_crm.hooks import access_token

    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in CERTIFICATES:
        monkeypatch.delenv(name, raising=False)
    values: dict[str, str] = {}
    monkeypatch.setattr(access_token, "Variable", FakeVariable(values))
    monkeypatch.setattr(access_token, "_in_process", {})
    monkeypatch.setattr(access_token, "_logged_keys", set())
    return values
