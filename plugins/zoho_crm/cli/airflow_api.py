"""Start Dag runs through Airflow's public REST API. Credentials come from the environment and are never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase

from zoho_crm.cli.exits import Exit
from zoho_crm.cli.options import CommandError, wrong_use

if TYPE_CHECKING:
    from collections.abc import Mapping

URL = "ZOHO_CRM_AIRFLOW_URL"
TOKEN = "ZOHO_CRM_AIRFLOW_TOKEN"  # noqa: S105 - the name of a variable
USER = "ZOHO_CRM_AIRFLOW_USER"
PASSWORD = "ZOHO_CRM_AIRFLOW_PASSWORD"  # noqa: S105 - the name of a variable

_TIMEOUT_S = 60.0


class _Bearer(AuthBase):
    """Sends a token. Set as ``auth``, it keeps requests from taking another one out of a .netrc file."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class AirflowApi:
    """
    One Airflow, as one of its users.

    :param url: base address of its API server, such as ``https://airflow.example.com``
    :param env: environment with a token, or with user and password
    :raises CommandError: url or credentials are missing or cannot be used
    """

    def __init__(self, url: str | None, env: Mapping[str, str]) -> None:
        if not url:
            wrong_use(f"Say where Airflow is: --airflow-url, or the environment variable {URL}.")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
            wrong_use(
                "The URL of Airflow must be like https://airflow.example.com, without user or password."
            )
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(env.get(TOKEN) or self._log_in(env.get(USER), env.get(PASSWORD)))

    def is_paused(self, dag_id: str) -> bool:
        """
        Return whether a Dag is paused, so that its runs would wait.

        :raises CommandError: there is no such Dag, or Airflow refuses or does not answer
        """
        return bool(self._call("GET", f"/api/v2/dags/{quote(dag_id, safe='')}").get("is_paused"))

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """
        Start a run and return its id.

        :param conf: the trigger form's values
        :raises CommandError: Airflow refuses or does not answer; without an answer the run may have been started
        """
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self._call("POST", f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns", body)["dag_run_id"])

    def link(self, dag_id: str, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self._url}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"

    def _log_in(self, user: str | None, password: str | None) -> str:
        if not user or not password:
            wrong_use(f"Say who you are to Airflow: {TOKEN}, or {USER} and {PASSWORD}, in the environment.")
        # An auth of its own: none, rather than what a .netrc file holds for the host.
        self._session.auth = lambda request: request
        return str(
            self._call("POST", "/auth/token", {"username": user, "password": password})["access_token"]
        )

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, self._url + path, json=body, timeout=_TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            raise CommandError(
                f"Airflow at {self._url} cannot be reached ({type(error).__name__})", Exit.UNREACHABLE
            ) from None
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.status_code in {200, 201} and isinstance(content, dict):
            return content
        raise CommandError(
            f"Airflow at {self._url} {_refusal(answer.status_code, content)}",
            Exit.UNREACHABLE if answer.status_code >= 500 else Exit.WRONG_USE,
        )


def _refusal(status: int, content: object) -> str:
    detail = content.get("detail") if isinstance(content, dict) else None
    match status:
        case 401:
            return f"does not know you: check {TOKEN}, or {USER} and {PASSWORD}"
        case 403:
            return "does not let you do that: the user needs the right to see the Dag and to create its runs"
        case 404 if detail:
            return f"does not have it: {detail}"
        case 200 | 201:
            return "answers with something else than JSON: is that the address of its API server?"
    return f"answers {status}" + (f": {str(detail)[:500]}" if detail else "")
