"""Time limits on the waits for a database, and one sentence for the error when such a limit has passed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

CONNECT_TIMEOUT_S = 10
WRITE_TIMEOUT_S = 30
"""For a packet to be acknowledged by the server's machine."""

_LIBPQ = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": WRITE_TIMEOUT_S * 1000,
}
_SILENT = "no response for"
_LIMITS = "zoho_delink_limits"
_QUERY_CANCELED, _LOCK_NOT_AVAILABLE, _IDLE_IN_TRANSACTION = "57014", "55P03", "25P03"
_MYSQL_LOST = 2013
_MYSQL_LOCK_TIMEOUT, _MYSQL_STATEMENT_TIMEOUTS = 1205, frozenset({1969, 3024})


class DatabaseTimeoutError(sa.exc.OperationalError):
    """
    A wait for a database has exceeded its limit. The driver's error is its cause.

    :param message: what was waited for, and for how long; ``orig`` has it, too
    """

    def __init__(self, message: str, *, connection_invalidated: bool) -> None:
        super().__init__(None, None, TimeoutError(message), connection_invalidated=connection_invalidated)

    def __str__(self) -> str:
        return str(self.orig)


@dataclass(frozen=True, slots=True)
class StatementLimits:
    """
    Limits for the statements of a transaction.

    :param silence_s: seconds without a response after which the connection is closed
    :param statement_s: seconds that one statement may take; None if the database's own limit holds
    :param lock_s: seconds that it may wait for a lock; None if the database's own limit holds
    """

    silence_s: float
    statement_s: int | None = None
    lock_s: int | None = None


@dataclass
class WaitLimits:
    """
    The limits of one engine.

    :param name: what the database is, at the beginning of a sentence
    :param default: limits for transactions whose engine has none from :func:`with_limits`
    """

    name: str
    default: StatementLimits
    _connect_timeout_s: object = field(default=CONNECT_TIMEOUT_S, init=False)

    def install(self, engine: sa.Engine) -> None:
        """Apply the limits to the connections that an engine opens. Options of its URL take precedence."""
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "handle_error", self._explain, retval=True)

    def of(self, connection: sa.Connection | None) -> StatementLimits:
        """Return the limits for the statements of a connection."""
        options = {} if connection is None else connection.get_execution_options()
        limits: StatementLimits = options.get(_LIMITS, self.default)
        return limits

    def _connect(
        self, dialect: sa.Dialect, _entry: ConnectionPoolEntry, cargs: Any, cparams: dict[str, Any]
    ) -> DBAPIConnection | None:
        for name, value in _connect_options(dialect, self.default).items():
            cparams.setdefault(name, value)
        self._connect_timeout_s = cparams.get("connect_timeout", CONNECT_TIMEOUT_S)
        if dialect.driver == "pymysql":
            return _connect_pymysql(dialect, cargs, cparams)
        if dialect.driver != "psycopg":
            return None
        # Behind a PgBouncer in transaction mode, the next transaction may run on a server that lacks the statement.
        cparams["prepare_threshold"] = None
        connection: DBAPIConnection = _bounded_psycopg().connect(*cargs, **cparams)
        set_silence_limit(connection, self.default.silence_s)
        return connection

    def _explain(self, context: ExceptionContext) -> DatabaseTimeoutError | None:
        if context.is_pre_ping:
            return None
        error = context.original_exception
        why = (
            self._find_connect_timeout(error)
            if context.connection is None
            else self._find_wait(error, self.of(context.connection))
        )
        if why is None:
            return None
        return DatabaseTimeoutError(f"{self.name} {why}", connection_invalidated=context.is_disconnect)

    def _find_connect_timeout(self, error: BaseException) -> str | None:
        """Return how long a connection was waited for; None for an error that no limit has caused."""
        text = " ".join(str(error).split())
        if not any(words in text for words in ("timeout expired", "timed out", _SILENT)):
            return None
        return f"did not accept a connection within {self._connect_timeout_s} s: check host, port and network ({text})"

    def _find_wait(self, error: BaseException, limits: StatementLimits) -> str | None:
        """Return what was waited for, and for how long; None for an error that no limit has caused."""
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        number, text = (error.args or (None,))[0], " ".join(str(error).split())
        if code == _QUERY_CANCELED or number in _MYSQL_STATEMENT_TIMEOUTS:
            limit = "" if limits.statement_s is None else f", whose limit is {limits.statement_s} s"
            return f"canceled a statement{limit}: {text}"
        if code == _LOCK_NOT_AVAILABLE or number == _MYSQL_LOCK_TIMEOUT or text == "database is locked":
            waited = "" if limits.lock_s is None else f" within {limits.lock_s} s"
            return f"did not grant a lock{waited}: another transaction holds it ({text})"
        if code == _IDLE_IN_TRANSACTION:
            return f"ended a transaction that was idle for too long: {text}"
        if text.startswith(_SILENT) or (number == _MYSQL_LOST and "timed out" in text):
            return (
                f"did not respond within {limits.silence_s:.0f} s: check the network and the server ({text})"
            )
        if "Connection timed out" in text:
            return f"did not acknowledge packets for {WRITE_TIMEOUT_S} s: check the network ({text})"
        return None


def with_limits(engine: sa.Engine, limits: StatementLimits) -> sa.Engine:
    """Return the engine for transactions that have other limits than the engine's own."""
    return engine.execution_options(**{_LIMITS: limits})


def set_silence_limit(connection: object, seconds: float) -> None:
    """Set after how many seconds without a response a connection of psycopg is closed; others stay as they are."""
    if hasattr(connection, "silence_limit_s"):
        connection.silence_limit_s = seconds


def _connect_options(dialect: sa.Dialect, limits: StatementLimits) -> dict[str, object]:
    """Return the limits of a connection in the words of its driver; {} for drivers without."""
    if dialect.driver in {"psycopg", "psycopg2"}:
        return dict(_LIBPQ)
    reading = {"read_timeout": int(limits.silence_s), "write_timeout": WRITE_TIMEOUT_S}
    if dialect.driver in {"pymysql", "mysqldb"}:
        return {"connect_timeout": CONNECT_TIMEOUT_S, **reading}
    if dialect.driver == "mysqlconnector":
        from mysql.connector.constants import DEFAULT_CONFIGURATION  # type: ignore[import-not-found,unused-ignore]

        supported = {name: value for name, value in reading.items() if name in DEFAULT_CONFIGURATION}
        return {"connection_timeout": CONNECT_TIMEOUT_S, **supported}
    return {}


def _connect_pymysql(dialect: sa.Dialect, cargs: Any, cparams: dict[str, Any]) -> DBAPIConnection:
    """Connect with PyMySQL, which waits for the server's greeting as long as for a statement."""
    connection: Any = dialect.connect(*cargs, **{**cparams, "read_timeout": cparams["connect_timeout"]})
    connection._read_timeout = cparams["read_timeout"]
    return connection  # type: ignore[no-any-return]


@cache
def _bounded_psycopg() -> Any:
    """
    Return psycopg's connection class with a limit on the time without a response.

    The limits of TCP do not end a wait for a proxy that acknowledges packets and answers nothing.
    """
    import psycopg

    class BoundedConnection(psycopg.Connection[Any]):
        silence_limit_s = 0.0

        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
            return super().wait(self._bounded(gen), *args, **options)

        def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """Pass on what the generator waits for, and close the connection when nothing comes."""
            limit_s = self.silence_limit_s
            deadline = time.monotonic() + limit_s
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if ready:
                        deadline = time.monotonic() + limit_s
                    elif time.monotonic() > deadline:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"{_SILENT} {limit_s:.0f} s")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return BoundedConnection
