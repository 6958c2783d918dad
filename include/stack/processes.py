"""Start processes that end when their owner stops them, and also when their owner dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from include.stack import guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TAIL_LINES = 40
_POLL_S = 0.02


class StackError(Exception):
    """Say what is wrong with the local stack, and what to look at."""


class ComponentDiedError(StackError):
    """A process of the stack ended by itself; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Component:
    """A running process of the stack, the leader of its own session."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise :class:`ComponentDiedError` when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ComponentDiedError(f"{self.name} ended with code {code}.\n{tail(self.log)}")


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log, under its name."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([f"--- the last lines of {log}:", *text.splitlines()[-lines:]])


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Keeper:
    """
    Start processes, and stop them all at the end: phase by phase, politely first.

    A guard process does the stopping. It notices the end of its owner by itself, so nothing is left behind when the
    owner is killed, and a second Ctrl-C cannot interrupt it.
    """

    def __init__(self) -> None:
        self.components: list[Component] = []
        self.lock: IO[str] | None = None
        """An open file whose lock must be held until all is stopped; to be set before the first start."""
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        phase: int = 0,
        stop_signal: str = "SIGTERM",
        grace_s: float = 10.0,
    ) -> Component:
        """
        Start a process in a session of its own, with its output appended to a log.

        :param phase: processes of a lower phase are stopped, and gone, before those of a higher one are asked.
        :param stop_signal: name of the signal that asks the process group to end.
        :param grace_s: how long it may take to end before it is killed.
        """
        self._start_guard()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - every caller gives a fixed program and no shell
                argv,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        session = guard.Session(process.pid, stop_signal, phase, grace_s)
        self._tell_guard(session.to_line())
        component = Component(name, process, log)
        self.components.append(component)
        return component

    def run(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log: Path, timeout_s: float
    ) -> None:
        """Run a process to its end, and raise :class:`StackError` when it fails or takes too long."""
        component = self.start(name, argv, env=env, log=log)
        try:
            code = component.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{name} takes longer than {timeout_s:g} s.\n{tail(log)}") from error
        self._forget(component)
        if code != 0:
            raise StackError(f"{name} ended with code {code}.\n{tail(log)}")

    def kill(self, component: Component) -> set[int]:
        """Kill a process that was started here with all that it started, and return their ids once all are gone."""
        found: set[int] = set()
        # All are stopped before one is killed: none notices the end of another, and none starts a further one.
        while fresh := guard.members([component.process.pid]) - found:
            _signal(fresh, signal.SIGSTOP)
            found |= fresh
        _signal(found, signal.SIGKILL)
        component.process.wait()
        while found & {process.pid for process in guard.living_processes()}:
            time.sleep(_POLL_S)
        self._forget(component)
        return found

    def check(self) -> None:
        """Raise :class:`ComponentDiedError` when any of the processes has ended."""
        for component in self.components:
            component.check()

    def living(self) -> set[int]:
        """Return the ids of all processes that were started, and of those that these started, and still live."""
        return guard.members(component.process.pid for component in self.components)

    def stop(self) -> None:
        """Stop all processes, and return when none is left."""
        if self._guard is None:
            return
        guard_process, self._guard = self._guard, None
        if guard_process.stdin is not None:
            with suppress(BrokenPipeError):
                guard_process.stdin.close()
        if guard_process.wait() != 0:
            guard.stop(
                guard.Session(component.process.pid, phase=index)
                for index, component in enumerate(reversed(self.components))
            )
        for component in self.components:
            component.process.wait()

    def _start_guard(self) -> None:
        if self._guard is None:
            self._guard = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", str(Path(guard.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[self.lock.fileno()] if self.lock else [],
            )

    def _forget(self, component: Component) -> None:
        self.components.remove(component)
        self._tell_guard(f"{guard.FORGET}{component.process.pid}\n")

    def _tell_guard(self, line: str) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(BrokenPipeError):  # the guard is gone: stop() will do its work
                self._guard.stdin.write(line.encode())
                self._guard.stdin.flush()
