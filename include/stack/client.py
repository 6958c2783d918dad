"""Client for the local Airflow's REST API, and its health report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TIMEOUT_S = 60.0


class ApiError(Exception):
    """
    Airflow responded with an error.

    :param status: HTTP status
    :param body: the response, as text
    """

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path} returned {status}: {body}")
        self.status = status
        self.body = body


class ApiClient:
    """
    Send requests as one of the users, with a bearer token for each.

    :param url: address of the API server
    :param passwords: password of each user
    """

    def __init__(self, url: str, passwords: Mapping[str, str]) -> None:
        self._url = url
        self._passwords = passwords
        self._tokens: dict[str, str] = {}
        self._session = requests.Session()
        # No proxy and no .netrc between two processes of one machine.
        self._session.trust_env = False

    def request(self, method: str, path: str, json: object = None, *, user: str | None = "admin") -> Any:
        """
        Send a request and return the decoded response; None when it is empty.

        :param path: path below the server's root, such as ``/api/v2/dags``
        :param user: whose token to send; None for no token
        :raises ApiError: for a status of 400 or more
        :raises requests.ConnectionError: when the server does not respond
        """
        headers = {"Authorization": f"Bearer {self._token(user)}"} if user else {}
        response = self._session.request(
            method,
            f"{self._url}{path}",
            json=json,
            headers=headers,
            timeout=_TIMEOUT_S,
            allow_redirects=False,
        )
        if response.status_code >= 400:
            raise ApiError(method, path, response.status_code, response.text)
        return response.json() if response.content else None

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _token(self, user: str) -> str:
        if user not in self._tokens:
            login = {"username": user, "password": self._passwords[user]}
            self._tokens[user] = self.request("POST", "/auth/token", login, user=None)["access_token"]
        return self._tokens[user]


def unhealthy_components(health: Mapping[str, Any], expected: Iterable[str]) -> list[str]:
    """
    Return which components are not healthy yet, each with its status.

    :param health: response of ``GET /api/v2/monitor/health``
    :param expected: components that must be healthy, as named in the response
    """
    statuses = {name: (health.get(name) or {}).get("status") or "not started" for name in expected}
    return [f"{name}: {status}" for name, status in statuses.items() if status != "healthy"]
