"""
What can go wrong, and what the caller can do next.

.. code-block:: text

    ZohoError
    ├── ZohoConfigError        the connection, the job or the request is wrong: change it, then run again
    │   ├── PlanError              the plan cannot be made or is not the one of this run: start a new run
    │   └── UnsafeRequestError     a request would not be the one that was asked for: nothing was sent
    ├── ZohoAuthError          Zoho refuses the credentials or the scope: renew them, then run again
    │   └── ZohoTokenThrottledError   Zoho hands out no token for a while: wait ``retry_after_s``
    ├── ZohoResponseError      Zoho answered with an error that is about this request
    ├── ZohoNotSentError       no connection: nothing was sent, trying again is safe
    ├── ZohoUnansweredError    sent, no answer: it may have been applied, so verify before believing either
    ├── ClaimLostError         a newer try has taken this chunk over: stop, it carries on
    ├── AuditAlteredError      the audit is not what was written: verify it before relying on it
    ├── GuardError             the plan passes a limit of the job: nothing was sent
    ├── LinksLeftError         links are left to be tried again: retry or clear the task
    └── RunStoppedError        an answer that waits for every link, or a plan too old: the message says what to do
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class ZohoError(Exception):
    """
    Base of all errors of this package.

    :param message: what happened and what to change; never a secret or a token
    :param http_status: the status Zoho answered with, if it did
    :param code: Zoho's error code, if there is one
    :param path: path of the request, without query and secrets
    :param details: Zoho's ``details``, as they came
    """

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
    """The connection, the job or the request is wrong: change it, then run again."""


class UnsafeRequestError(ZohoConfigError):
    """The prepared request is not the one that was asked for. Nothing was sent."""


class PlanError(ZohoConfigError):
    """The plan cannot be made, or is not the one of this run: correct it, then start a new run."""


class ZohoAuthError(ZohoError):
    """Zoho refuses the credentials or the scope: renew them, then run again."""


class ZohoTokenThrottledError(ZohoAuthError):
    """
    Zoho hands out no access token for a while (10 in 10 minutes for one refresh token).

    :param retry_after_s: seconds to stay away; asking earlier makes Zoho's lock-out longer
    """

    def __init__(self, message: str, *, retry_after_s: float, http_status: int | None = None) -> None:
        super().__init__(message, http_status=http_status)
        self.retry_after_s = retry_after_s


class ZohoResponseError(ZohoError):
    """Zoho answered with an error that is about this request."""


class ZohoNotSentError(ZohoError):
    """There was no connection: nothing was sent, so trying again is safe."""


class ZohoUnansweredError(ZohoError):
    """The request was sent and not answered: it may have been applied."""


class ClaimLostError(ZohoError):
    """A newer try has taken this chunk over and carries on with it."""


class AuditAlteredError(ZohoError):
    """The audit is not what was written: verify it before relying on it."""


class GuardError(ZohoError):
    """The plan passes a limit of the job. Nothing was sent."""


class UnfinishedLinksError(ZohoError):
    """Links are left to be tried again: retry or clear the task."""


class RunStoppedError(ZohoError):
    """Zoho gave an answer that waits for every link, or the plan is too old: the message says what to do next."""
