"""
Errors of this package, by what the caller can do next.

.. code-block:: text

    ZohoError
    ├── ZohoConfigError        the connection, the job or the request is invalid: change it, then run again
    │   ├── PlanError              the plan cannot be made, or belongs to another run: start a new run
    │   │   └── OtherOrgError          the connection leads to another organization than the plan: nothing was sent
    │   └── UnsafeRequestError     the request would differ from the intended one: nothing was sent
    ├── ZohoAuthError          Zoho refuses the credentials or the scope: renew them, then run again
    │   └── ZohoTokenThrottledError   Zoho grants no access token for a while: wait ``retry_after_s``
    ├── ZohoResponseError      Zoho responded with an error about this request
    ├── ZohoNotSentError       no connection: nothing was sent, a retry is safe
    ├── ZohoUnansweredError    sent, no response: it may have been applied; verify
    ├── ClaimLostError         a newer try works on this chunk: stop
    ├── AuditAlteredError      the audit differs from what was written: verify it before relying on it
    ├── GuardError             the plan exceeds a limit of the job: nothing was sent
    ├── UnfinishedLinksError   links are unfinished: retry or clear the task
    └── RunStoppedError        no link can be sent, or the plan is too old: the message says what to do
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class ZohoError(Exception):
    """
    Base of all errors of this package.

    :param message: what happened and what to change; never a secret or a token
    :param http_status: status of Zoho's response, if there is one
    :param code: Zoho's error code, if there is one
    :param path: path of the request, without query and secrets
    :param details: Zoho's ``details``, as they came
    """

    sends = 0
    """Requests that were sent before the error: Zoho rejected their access token, or was overloaded."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        code: str | None = None,
        path: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.path = path
        self.details = dict(details or {})


class ZohoConfigError(ZohoError):
    """The connection, the job or the request is invalid: change it, then run again."""


class UnsafeRequestError(ZohoConfigError):
    """The prepared request differs from the intended one. Nothing was sent."""


class PlanError(ZohoConfigError):
    """The plan cannot be made, or belongs to another run: correct it, then start a new run."""


class OtherOrgError(PlanError):
    """The connection leads to another organization, environment or data center than the plan. Nothing was sent."""


class ZohoAuthError(ZohoError):
    """Zoho refuses the credentials or the scope: renew them, then run again."""


class ZohoTokenThrottledError(ZohoAuthError):
    """
    Zoho grants no access token for a while (10 in 10 minutes for one refresh token).

    :param retry_after_s: seconds to wait; an earlier request extends Zoho's lock-out
    """

    def __init__(self, message: str, *, retry_after_s: float, http_status: int | None = None) -> None:
        super().__init__(message, http_status=http_status)
        self.retry_after_s = retry_after_s


class ZohoResponseError(ZohoError):
    """Zoho responded with an error about this request."""


class ZohoNotSentError(ZohoError):
    """There was no connection: nothing was sent, a retry is safe."""


class ZohoUnansweredError(ZohoError):
    """The request was sent without a response: it may have been applied."""


class ClaimLostError(ZohoError):
    """A newer try works on this chunk."""


class AuditAlteredError(ZohoError):
    """The audit differs from what was written: verify it before relying on it."""


class AnchorError(ZohoError):
    """An anchor of the audit cannot be read or written, or is of another seal."""


class GuardError(ZohoError):
    """The plan exceeds a limit of the job. Nothing was sent."""


class UnfinishedLinksError(ZohoError):
    """Links are unfinished: retry or clear the task."""


class RunStoppedError(ZohoError):
    """No link can be sent, or the plan is too old: the message says what to do next."""


def missing_connection(conn_id: str) -> ZohoConfigError:
    """Return the error for a connection that Airflow does not have."""
    return ZohoConfigError(f"Connection {conn_id!r} does not exist: add it, or correct its id")
