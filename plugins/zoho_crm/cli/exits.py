"""Exit codes, and which error is which: the one place that decides."""

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
    """What a script can tell from the exit code."""

    FINE = 0
    NOT_FINE = 1
    """The thing that was checked is not fine, or a person said no."""
    WRONG_USE = 2
    """An argument, an environment variable, a file or a connection is wrong."""
    UNREACHABLE = 3
    """Zoho, a database or Airflow cannot be reached, or gives no clear answer just now."""


def exit_of(error: BaseException) -> Exit | None:
    """Return the exit code of an error that is to be expected; None for one that is not."""
    match error:
        case ZohoNotSentError() | ZohoUnansweredError() | ZohoTokenThrottledError():
            return Exit.UNREACHABLE
        case ZohoAuthError() | ZohoResponseError() | GuardError():
            return Exit.NOT_FINE
        case ZohoConfigError():
            return Exit.WRONG_USE
        case ZohoError():
            return Exit.UNREACHABLE
    return Exit.UNREACHABLE if _is_from_a_database(error) else None


def message_of(error: BaseException) -> str:
    """Return an error as one sentence, without the SQL and the parameters that a database error carries along."""
    if isinstance(error, ZohoError):
        return str(error)
    cause = getattr(error, "orig", None) or error
    return f"The database cannot be used: {' '.join(str(cause).split())}"


def _is_from_a_database(error: BaseException) -> bool:
    """Whether SQLAlchemy raised it; where nobody has imported SQLAlchemy, it did not."""
    alchemy = sys.modules.get("sqlalchemy.exc")
    return alchemy is not None and isinstance(error, alchemy.SQLAlchemyError)
