from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@pytest.fixture
def listening_addresses() -> Callable[[Iterable[int]], set[str]]:
    """Return a function that finds the addresses on which processes accept connections."""

    def find(pids: Iterable[int]) -> set[str]:
        found = set()
        for pid in pids:
            try:
                connections = psutil.Process(pid).net_connections("inet")
            except psutil.NoSuchProcess:
                continue
            found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
        return found

    return find
