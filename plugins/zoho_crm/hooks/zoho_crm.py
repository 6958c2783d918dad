"""The hook: every request to Zoho CRM goes through it, or through its async client."""

from __future__ import annotations

import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.providers.http.hooks.http import HttpHook

from zoho_crm.airflow_compat import AirflowNotFoundException, add_connection_form
from zoho_crm.core.models import DELINK
from zoho_crm.core.request import (
    ZohoRequest,
    delete_related,
    get_record,
    get_related,
    get_setting,
    list_related,
)
from zoho_crm.core.response import Lookup, judge_lookup
from zoho_crm.core.verdict import Verdict, judge
from zoho_crm.errors import (
    ZohoConfigError,
    ZohoError,
    ZohoResponseError,
    missing_connection,
)
from zoho_crm.get_provider_info import get_provider_info
from zoho_crm.hooks.access_token import TOKEN_RENEWALS, TokenSource, VariableTokenStore
from zoho_crm.hooks.async_client import AsyncZohoClient
from zoho_crm.hooks.connection import ZohoConnection
from zoho_crm.hooks.http_transport import HttpTransport, Meter
from zoho_crm.hooks.metadata import FieldMeta, ModuleMeta, Org, RelatedListMeta, org_in
from zoho_crm.hooks.network import Network
from zoho_crm.hooks.oauth import Token, fetch_token
from zoho_crm.hooks.sync_transport import SyncTransport
from zoho_crm.hooks.zoho_checks import check_relation, describe_connection
from zoho_crm.hooks.zoho_response import (
    MAX_BODY_BYTES,
    MAX_METADATA_BYTES,
    ZohoResponse,
    parse_reading_response,
    rows_of,
    unclear,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import requests

    from zoho_crm.core.links import Link, Relation

PAGE_ROWS = 200
"""Zoho's limit of rows in one page."""
PAGED_ROWS = 2000
"""Rows available by page number; further ones need Zoho's page token."""


class ZohoCRMHook(HttpHook):
    """
    Read and change links in Zoho CRM by external ids.

    It is an ``HttpHook``, but no extra of the connection reaches a request: see
    :class:`zoho_crm.hooks.connection.ZohoConnection` for its fields, and :mod:`zoho_crm.hooks.network` for proxies and
    certificates.

    The methods here are synchronous and make calls to Airflow's SDK: do not use them on the thread of an event loop.

    :param zoho_conn_id: the Airflow connection, of type ``zoho_crm``
    :param connect_timeout_s: seconds to wait for a connection
    :param read_timeout_s: seconds to wait for a response
    :param refresh_lock: makes the lock that all workers share while the access token is renewed
    :param shared_clock: seconds since the epoch; the same for all workers, as far as possible
    """

    conn_name_attr = "zoho_conn_id"
    default_conn_name = "zoho_crm_default"
    conn_type = "zoho_crm"
    hook_name = "Zoho CRM"

    sleep: Callable[[float], None] = staticmethod(time.sleep)
    """Waits between the tries of a GET and of a token request."""

    def __init__(
        self,
        zoho_conn_id: str = "zoho_crm_default",
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        refresh_lock: Callable[[], AbstractContextManager[None]] | None = None,
        shared_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(method="GET", http_conn_id=zoho_conn_id, tcp_keep_alive=False)
        self.zoho_conn_id = zoho_conn_id
        self.connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self._refresh_lock = refresh_lock
        self._shared_clock = shared_clock
        self._check_right: Callable[[], None] = lambda: None

    @cached_property
    def connection(self) -> ZohoConnection:
        """
        The checked connection.

        :raises ZohoConfigError: it cannot be used
        """
        conn_id = self.zoho_conn_id
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException:
            raise missing_connection(conn_id) from None
        if connection.conn_type not in {None, "", self.conn_type}:
            raise ZohoConfigError(
                f"Connection {conn_id!r} has the type {connection.conn_type}: it must have the type {self.conn_type}"
            )
        return ZohoConnection.from_airflow(conn_id, connection)

    @cached_property
    def network(self) -> Network:
        """Proxy and certificates of this process."""
        return Network.from_environment(self.connection)

    @cached_property
    def meter(self) -> Meter:
        """Measures all requests of this hook and of its async clients."""
        return Meter(self.zoho_conn_id)

    @cached_property
    def token_source(self) -> TokenSource:
        """The access token that all tasks and workers share."""
        return TokenSource(
            self.connection,
            fetch=self._fetch_token,
            store=VariableTokenStore(self.zoho_conn_id, self.connection.token_key),
            refresh_lock=self._refresh_lock,
            shared_clock=self._shared_clock,
        )

    def require(self, check_right: Callable[[], None]) -> None:
        """
        Call this before every further request to Zoho CRM that the hook itself sends.

        :param check_right: raises if the request may not be sent
        """
        self._check_right = check_right

    def send(self, request: ZohoRequest, *, max_body_bytes: int = MAX_BODY_BYTES) -> ZohoResponse:
        """
        Send one request of any kind, and return the response, whatever it is.

        A rejected access token is replaced, :data:`TOKEN_RENEWALS` times at most: such a request is known not to
        have been applied. Beyond that a ``GET`` is retried on overload and server errors. A ``DELETE`` or ``PUT`` is
        sent once.

        :param max_body_bytes: a longer response counts as unreadable
        :raises UnsafeRequestError: the prepared request would be another one; nothing was sent
        :raises ZohoNotSentError: there was no connection
        :raises ZohoUnansweredError: sent, but there is no readable response
        :raises ZohoAuthError: there is no access token
        """
        token = self.token_source.get()
        response = self._transport.send(request, token, max_body_bytes=max_body_bytes)
        for _ in range(TOKEN_RENEWALS):
            if not response.token_rejected:
                break
            token = self.token_source.replace(token.access_token)
            response = self._transport.send(request, token, max_body_bytes=max_body_bytes)
        return response

    def async_client(self, max_connections: int | None = None) -> AsyncZohoClient:
        """
        Return a client for many requests at once; connection and token are resolved here, before the loop runs.

        :param max_connections: requests in flight, default the connection's ``max_concurrency``
        """
        return AsyncZohoClient(
            self.connection,
            self.network,
            self.token_source,
            self.token_source.get(),
            self.meter,
            max_connections=max_connections or self.connection.max_concurrency,
            connect_timeout_s=self.connect_timeout_s,
            read_timeout_s=self.read_timeout_s,
        )

    def delete_related_record(self, relation: Relation, link: Link) -> Verdict:
        """
        Remove one link, by one request, and judge the response.

        Source: https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html

        :raises UnsafeRequestError: an id cannot be sent; nothing was sent
        :raises ZohoNotSentError: there was no connection
        :raises ZohoUnansweredError: it may have been applied: verify
        """
        response = self.send(delete_related(self._version, relation, link))
        return judge(response.classified, relation=relation, ambiguous_before=False)

    def get_related_record(self, relation: Relation, link: Link) -> bool:
        """
        Return whether the link exists.

        False is also the result for a related id that no record has; see :meth:`record_exists`.

        Source: https://www.zoho.com/crm/developer/docs/api/v7/get-related-records-ext.html

        :raises ZohoResponseError: any unclear response, e.g. ``INVALID_DATA`` for an unknown parent
        """
        request = get_related(self._version, relation, link)
        response = self.send(request)
        match judge_lookup(response.status, response.body):
            case Lookup.FOUND:
                return True
            case Lookup.MISSING:
                return False
        raise unclear(request, response)

    def get_related_records(
        self, relation: Relation, external_id: str, fields: Sequence[str] = ("id",)
    ) -> Iterator[dict[str, Any]]:
        """
        Yield all records linked to a parent, page by page: one API credit for every 200.

        Source: https://www.zoho.com/crm/developer/docs/api/v7/get-related-records.html

        :param fields: API names of the fields wanted
        :raises ZohoResponseError: the response is an error or cannot be read
        """
        page, token = 1, None
        while True:
            request = list_related(
                self._version, relation, external_id, fields, page=page, page_token=token, per_page=PAGE_ROWS
            )
            content = parse_reading_response(request, self.send(request))
            yield from rows_of(request, content, "data")
            info = (content or {}).get("info")
            if not isinstance(info, dict) or info.get("more_records") is not True:
                return
            page += 1
            if page * PAGE_ROWS > PAGED_ROWS:
                before, token = token, info.get("next_page_token")
                if not isinstance(token, str) or not token or token == before:
                    raise ZohoResponseError(
                        "Zoho reports more records, but no page token for them", path=request.path
                    )

    def record_exists(self, module: str, external_field: str, external_id: str) -> bool:
        """
        Return whether a record has that external id.

        Source: https://www.zoho.com/crm/developer/docs/api/v7/get-records-ext.html

        :raises ZohoResponseError: the response is unclear
        """
        request = get_record(self._version, module, external_field, external_id)
        response = self.send(request)
        match judge_lookup(response.status, response.body):
            case Lookup.FOUND:
                return True
            case Lookup.MISSING | Lookup.WRONG_ID:
                return False
        raise unclear(request, response)

    def get_modules(self) -> list[ModuleMeta]:
        """Return all modules. Needs the scope ``ZohoCRM.settings.modules.READ``."""
        return cast(
            "list[ModuleMeta]", self._read(get_setting(self._version, "settings", "modules"), "modules")
        )

    def get_fields(self, module: str) -> list[FieldMeta]:
        """Return the fields of a module. Needs the scope ``ZohoCRM.settings.fields.READ``."""
        request = get_setting(self._version, "settings", "fields", query=(("module", module),))
        return cast("list[FieldMeta]", self._read(request, "fields"))

    def get_related_lists(self, module: str) -> list[RelatedListMeta]:
        """Return the related lists of a module. Needs the scope ``ZohoCRM.settings.related_lists.READ``."""
        request = get_setting(self._version, "settings", "related_lists", query=(("module", module),))
        return cast("list[RelatedListMeta]", self._read(request, "related_lists"))

    def get_org(self) -> Org:
        """
        Return the organization. Needs the scope ``ZohoCRM.org.READ``.

        :raises ZohoResponseError: the response is an error or cannot be read
        """
        return org_in(self._read(get_setting(self._version, "org"), "org"))

    def granted_scopes(self) -> frozenset[str]:
        """Return the scopes of the access token; empty if Zoho does not report them."""
        return self.token_source.get().scopes

    def check_relation(
        self, relation: Relation, operation: str = DELINK, *, allow_user_fields: bool = False
    ) -> list[str]:
        """Return the errors of this relation; see :func:`zoho_crm.hooks.zoho_checks.check_relation`."""
        return check_relation(self, relation, operation, allow_user_fields=allow_user_fields)

    def test_connection(self) -> tuple[bool, str]:
        """
        Return whether the connection works, and a message: for Airflow's Test button.

        Fetches a separate access token, which is not stored, and reads the organization. Never raises, and never shows
        a secret.
        """
        try:
            token = self._fetch_token()
            request = get_setting(self._version, "org")
            response = self._transport.send(request, token)
            org = org_in(rows_of(request, parse_reading_response(request, response), "org"))
            return describe_connection(self.connection, org, token.scopes)
        except ZohoError as exc:
            return False, str(exc)
        except Exception as exc:  # noqa: BLE001, RUF100 - the Test button must show a message, not a traceback
            self.log.debug(
                "Connection test failed: connection=%s error=%s", self.zoho_conn_id, type(exc).__name__
            )
            return False, f"Connection {self.zoho_conn_id!r} cannot be read or used: {type(exc).__name__}"

    def get_conn(
        self, headers: dict[Any, Any] | None = None, extra_options: dict[str, Any] | None = None
    ) -> Any:
        """
        Return a session of requests without an access token; :meth:`send` sends over another client.

        :param headers: must be empty
        :param extra_options: must be empty
        :raises ZohoConfigError: either is given
        """
        if headers or extra_options:
            self._refuse_generic_call()
        return self.network.requests_session()

    def run(self, *args: Any, **kwargs: Any) -> NoReturn:
        """
        Refuse: only requests that this package builds and compares are sent.

        :raises ZohoConfigError: always
        """
        self._refuse_generic_call()

    run_and_check = run_with_advanced_retry = run

    def check_response(self, response: requests.Response) -> None:
        """Do nothing: bodies are neither logged nor decoded, and :meth:`send` returns every response."""

    def _refuse_generic_call(self) -> NoReturn:
        raise ZohoConfigError(
            "ZohoCRMHook does not send free-form requests; use delete_related_record, get_related_record, "
            "get_related_records, record_exists, get_modules, get_fields, get_related_lists, get_org or send"
        )

    def _configure_session_from_auth(self, session: requests.Session, connection: Any) -> requests.Session:
        return session

    def _extract_auth(self, connection: Any) -> None:
        return None

    def _configure_session_from_extra(
        self, session: requests.Session, connection: Any, extra_options: dict[str, Any]
    ) -> requests.Session:
        return session

    @cached_property
    def _transport(self) -> SyncTransport:
        make_transport = partial(
            HttpTransport,
            self.connection,
            self.network,
            self.meter,
            max_connections=1,
            connect_timeout_s=self.connect_timeout_s,
            read_timeout_s=self.read_timeout_s,
            repeats_reads=False,
        )
        return SyncTransport(make_transport, sleep=self.sleep, check_right=lambda: self._check_right())

    @property
    def _version(self) -> str:
        return self.connection.api_version

    def _fetch_token(self) -> Token:
        return fetch_token(
            self.connection,
            self.network,
            timeout_s=(self.connect_timeout_s, min(self.read_timeout_s, 30.0)),
            sleep=self.sleep,
        )

    def _read(self, request: ZohoRequest, key: str) -> list[dict[str, Any]]:
        limit = MAX_METADATA_BYTES if "settings" in request.segments else MAX_BODY_BYTES
        return rows_of(
            request, parse_reading_response(request, self.send(request, max_body_bytes=limit)), key
        )


add_connection_form(ZohoCRMHook, get_provider_info()["connection-types"][0])
