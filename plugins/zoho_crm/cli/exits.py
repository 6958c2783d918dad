"""Exit codes, and the exit code and message of each expected error."""

from __future__ import annotations

import sys
from enum import IntEnum

from zoho_crm.errors import (
    GuardError,
    ZohoAuthError,
    ZohoConfigError,
    ZohoError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoTokenThrottledError,
    ZohoUnansweredError,
)


class Exit(IntEnum):
    """Exit codes of all commands."""

    OK = 0
    CHECK_FAILED = 1
    """A job, a connection, a plan or the audit did not pass its check."""
    USAGE_ERROR = 2
    """An argument, an environment variable, a file or a connection is wrong."""
    UNREACHABLE = 3
    """Zoho or a database cannot be reached, or does not give a usable response at the moment."""


def exit_of(error: BaseException) -> Exit | None:
    """Return the exit code of an expected error; None for an unexpected one."""
    match error:
        case ZohoNotSentError() | ZohoUnansweredError() | ZohoTokenThrottledError():
            return Exit.UNREACHABLE
        case ZohoAuthError() | ZohoResponseError() | GuardError():
            return Exit.CHECK_FAILED
        case ZohoConfigError():
            return Exit.USAGE_ERROR
        case ZohoError():
            return Exit.UNREACHABLE
    return Exit.UNREACHABLE if _is_from_a_database(error) else None


def message_of(error: BaseException) -> str:
    """Return an error as one sentence, without the SQL and parameters of a database error."""
    if isinstance(error, ZohoError):
        return str(error)
    cause = getattr(error, "orig", None) or error
    return f"Database error: {' '.join(str(cause).split())}"


def _is_from_a_database(error: BaseException) -> bool:
    """Return whether SQLAlchemy raised it, without importing SQLAlchemy."""
    alchemy = sys.modules.get("sqlalchemy.exc")
    return alchemy is not None and isinstance(error, alchemy.SQLAlchemyError)
