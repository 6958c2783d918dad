"""A StatsD server that stores what clients send over UDP. A pytest plugin."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_KINDS = {"c": "counter", "g": "gauge", "ms": "timer"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, with the tags that InfluxDB's form writes into its name."""

    name: str
    kind: str
    value: float
    tags: dict[str, str]


class StatsdServer:
    """Listens on a free port of 127.0.0.1; ``with StatsdServer() as server``."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port: int = self._socket.getsockname()[1]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def environment(self) -> dict[str, str]:
        """Return the settings that make Airflow send its metrics here, with their tags."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self.port),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }

    def samples(self, name: str = "") -> list[Sample]:
        """Return this package's samples, or those of one metric, without Airflow's prefix."""
        found = [_read(line) for text in list(self.texts) for line in text.split("\n") if line]
        return [one for one in found if one.name.startswith("zoho_crm.") and name in {"", one.name}]

    def until(self, done: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait for packets in transit."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, [f"{one}" for one in self.samples()]
            time.sleep(0.02)

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self.texts.append(self._socket.recv(65_536).decode())
            except TimeoutError:
                continue


def _read(line: str) -> Sample:
    label, _, rest = line.partition(":")
    name, *tags = label.split(",")
    value, kind = rest.split("|")[:2]
    return Sample(
        name.removeprefix("airflow."),
        _KINDS.get(kind, kind),
        float(value),
        dict(tag.split("=", 1) for tag in tags),
    )


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsdServer]:
    """A StatsD server that receives the metrics of this process, like those of a task."""
    # Here, since every test loads this file and few need Airflow.
    from tests.support.releases import NoStatsLogger, set_stats_backend, statsd_factory

    made: list[Any] = []
    with StatsdServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        factory = statsd_factory()
        set_stats_backend(lambda: made.append(factory()) or made[-1])
        yield server
    set_stats_backend(NoStatsLogger)
    for logger in made:
        logger.statsd.close()
