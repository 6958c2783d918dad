"""Speak to the local Airflow's REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_S = 60.0


class ApiError(Exception):
    """
    Airflow answered with an error.

    :param status: HTTP status.
    :param body: the answer, as text.
    """

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path} answered {status}: {body}")
        self.status = status
        self.body = body


class ApiClient:
    """
    Send requests as one of the users, each with a bearer token that is fetched at the first need.

    :param url: where the API server is.
    :param passwords: password of each user.
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
        Send a request and return the decoded answer, or none when it is empty.

        :param path: path below the server's root, such as ``/api/v2/dags``.
        :param user: whose token to send; none for no token.
        :raises ApiError: for each answer with a status of 400 or more.
        :raises requests.ConnectionError: when nothing answers.
        """
        headers = {"Authorization": f"Bearer {self._token(user)}"} if user else {}
        answer = self._session.request(
            method,
            f"{self._url}{path}",
            json=json,
            headers=headers,
            timeout=_TIMEOUT_S,
            allow_redirects=False,
        )
        if answer.status_code >= 400:
            raise ApiError(method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _token(self, user: str) -> str:
        if user not in self._tokens:
            login = {"username": user, "password": self._passwords[user]}
            self._tokens[user] = self.request("POST", "/auth/token", login, user=None)["access_token"]
        return self._tokens[user]
