"""Send single requests over one session of requests: prepare, compare, send, read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import requests
import tenacity

from zoho_crm.core.request_guard import check_prepared_request
from zoho_crm.core.response import ResponseKind
from zoho_crm.errors import UnsafeRequestError, ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.network import Network, bounded_body, failure_of
from zoho_crm.hooks.zoho_response import MAX_BODY_BYTES, ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.hooks.meter import Meter
    from zoho_crm.hooks.oauth import Token

_READ_ATTEMPTS = 4
_LONGEST_PAUSE_S = 30.0
_RETRYABLE_KINDS = frozenset({ResponseKind.OVERLOADED, ResponseKind.SERVER_ERROR})


class SyncTransport:
    """
    Sends single requests over one session of requests.

    :param meter: measures every request
    :param timeout_s: for connecting and for reading
    :param sleep: waits between the tries of a GET
    """

    def __init__(
        self,
        connection: ZohoConnection,
        network: Network,
        meter: Meter,
        *,
        timeout_s: tuple[float, float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.session = network.open_session()
        self._base_url = connection.base_url
        self._meter = meter
        self._timeout_s = timeout_s
        self._sleep = sleep

    def send(
        self, request: ZohoRequest, token: Token, *, max_body_bytes: int = MAX_BODY_BYTES
    ) -> ZohoResponse:
        """
        Send a request with this token: a GET up to four times, any other once.

        :param max_body_bytes: a longer response counts as unreadable
        :raises UnsafeRequestError: the prepared request would be another one; nothing was sent
        :raises ZohoNotSentError: there was no connection
        :raises ZohoUnansweredError: sent, but there is no readable response
        """
        if request.method != "GET":
            return self._send_once(request, token, max_body_bytes)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_READ_ATTEMPTS),
            wait=_pause_s,
            retry=tenacity.retry_if_exception_type((ZohoNotSentError, ZohoUnansweredError))
            | tenacity.retry_if_result(_is_retryable),
            sleep=self._sleep,
            retry_error_callback=_last_outcome,
        )
        return retrying(self._send_once, request, token, max_body_bytes)

    def _send_once(self, request: ZohoRequest, token: Token, max_body_bytes: int) -> ZohoResponse:
        what = f"{request.method} to {self._base_url}"
        failure: ZohoError
        started = time.perf_counter()
        try:
            prepared = self._prepare(request, token)
            with self.session.send(
                prepared,
                allow_redirects=False,
                timeout=self._timeout_s,
                stream=True,
            ) as response:
                body = bounded_body(response, max_body_bytes)
                if body is not None:
                    result = ZohoResponse(
                        response.status_code,
                        response.headers,
                        body,
                        time.perf_counter() - started,
                        token.access_token,
                    )
                    self._meter.answered(request.method, result)
                    return result
                failure = ZohoUnansweredError(
                    f"{what}: the response is longer than {max_body_bytes} bytes",
                    http_status=response.status_code,
                    path=request.path,
                )
        except (requests.RequestException, OSError, UnicodeError) as exc:
            failure = failure_of(exc, what=what, path=request.path)
        self._meter.failed(request.method, failure, time.perf_counter() - started)
        raise failure

    def _prepare(self, request: ZohoRequest, token: Token) -> requests.PreparedRequest:
        """
        Prepare a request, and compare it with the one that was built.

        :raises UnsafeRequestError: they differ
        """
        prepared = self.session.prepare_request(
            requests.Request(
                request.method,
                self._base_url + request.target,
                headers={**request.headers, "Authorization": f"Zoho-oauthtoken {token.access_token}"},
                data=request.body,
            )
        )
        if token.api_domain != self._base_url:
            raise UnsafeRequestError("The access token is for another address. Nothing was sent.")
        check_prepared_request(
            request,
            self._base_url,
            method=prepared.method or "",
            url=prepared.url or "",
            headers=cast("dict[str, str]", prepared.headers),
            body=prepared.body,
        )
        return prepared


def _is_retryable(response: ZohoResponse) -> bool:
    classified = response.classified
    return classified.kind in _RETRYABLE_KINDS and (classified.retry_after_s or 0.0) <= _LONGEST_PAUSE_S


_grows = tenacity.wait_exponential(multiplier=0.5, max=10) + tenacity.wait_random(0, 0.5)


def _pause_s(state: tenacity.RetryCallState) -> float:
    outcome = state.outcome
    retry_after_s = 0.0
    if outcome is not None and not outcome.failed:
        retry_after_s = outcome.result().classified.retry_after_s or 0.0
    return max(retry_after_s, _grows(state))


def _last_outcome(state: tenacity.RetryCallState) -> ZohoResponse:
    if state.outcome is None:
        raise RuntimeError("tenacity stopped without an outcome")
    outcome: ZohoResponse = state.outcome.result()
    return outcome
