"""
Stop the processes of a local stack, even when the process that started them was killed.

This file runs by itself, as a small process beside the stack. It reads a line for each process session that it has to
care for, and for each that has ended. When its input ends, because the owner of the stack stops it or has died, it
stops those that are left. It imports nothing but the standard library: it starts at once, and depends on nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC = Path("/proc")
_POLL_S = 0.05

FORGET = "forget "
"""Begins a line that names a session that has ended: its number may soon be somebody else's."""


@dataclass(frozen=True, slots=True)
class Session:
    """
    A process session to stop.

    :param leader: process id of its first process, which is the session's and the process group's id too.
    :param stop_signal: name of the signal that asks it to end.
    :param phase: sessions of a lower phase are stopped, and gone, before those of a higher one are asked.
    :param grace_s: how long it may take to end before it is killed.
    """

    leader: int
    stop_signal: str = "SIGTERM"
    phase: int = 0
    grace_s: float = 10.0

    def to_line(self) -> str:
        """Return what :meth:`from_line` reads."""
        return f"{self.leader} {self.stop_signal} {self.phase} {self.grace_s}\n"

    @classmethod
    def from_line(cls, line: str) -> Session:
        """Read a session from a line."""
        leader, stop_signal, phase, grace_s = line.split()
        return cls(int(leader), stop_signal, int(phase), float(grace_s))


@dataclass(frozen=True, slots=True)
class Process:
    """A living process, as the system lists it."""

    pid: int
    parent: int
    session: int


def living_processes() -> list[Process]:
    """List all processes but those that have ended and only wait to be reaped."""
    if not (_PROC / "self" / "stat").exists():
        return _processes_by_ps()
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                # The second field is the program's name in brackets, and may itself hold brackets and blanks.
                state, parent, _group, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                if state not in {"Z", "X"}:
                    found.append(Process(int(folder.name), int(parent), int(session)))
    return found


def _processes_by_ps() -> list[Process]:
    argv = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    listed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout  # noqa: S603 - fixed words
    found = []
    for line in listed.splitlines():
        pid, parent, state = line.split()[:3]
        with suppress(OSError):
            if not state.startswith("Z"):
                found.append(Process(int(pid), int(parent), os.getsid(int(pid))))
    return found


def members(leaders: Iterable[int]) -> set[int]:
    """
    Return the living processes of these sessions, and all that descend from them.

    A session alone misses PostgreSQL's back ends (each begins its own session); descent alone misses what outlived
    its parent.
    """
    processes = living_processes()
    wanted = set(leaders)
    found = {process.pid for process in processes if process.session in wanted}
    while more := {p.pid for p in processes if p.parent in found and p.pid not in found}:
        found |= more
    return found


def stop(sessions: Iterable[Session]) -> None:
    """Stop the sessions, phase by phase: ask, wait, then kill what is left."""
    remaining = list(sessions)
    for phase in sorted({session.phase for session in remaining}):
        _stop_phase([session for session in remaining if session.phase == phase])


def _stop_phase(sessions: list[Session]) -> None:
    leaders = [session.leader for session in sessions]
    known = members(leaders)
    for session in sessions:
        with suppress(ProcessLookupError):
            os.killpg(session.leader, getattr(signal, session.stop_signal))
    deadline = time.monotonic() + max(session.grace_s for session in sessions)
    while (left := _still(known, leaders)) and time.monotonic() < deadline:
        known |= left
        time.sleep(_POLL_S)
    while left := _still(known, leaders):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _still(known: set[int], leaders: list[int]) -> set[int]:
    alive = {process.pid for process in living_processes()}
    return (known & alive) | members(leaders)


def main() -> None:
    """Read sessions until the input ends, then stop them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    sessions: dict[int, Session] = {}
    for line in sys.stdin:
        if line.startswith(FORGET):
            sessions.pop(int(line.removeprefix(FORGET)), None)
        else:
            session = Session.from_line(line)
            sessions[session.leader] = session
    stop(sessions.values())


if __name__ == "__main__":
    main()
