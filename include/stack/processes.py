"""
Processes that end with their owner, free ports, and unprivileged users.

Run as a program, this file is the guard of a :class:`Supervisor`. It imports nothing of this project, so that it
starts at once.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Self

import psutil  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

LOOPBACK = "127.0.0.1"
_TAIL_LINES = 40
_POLL_S = 0.1
_USER = "nobody"  # codespell:ignore nobody

# Below a folder that only root may enter, such as /root, an unprivileged user needs this one capability to reach its
# files. Opening the folders to everybody instead would last longer than the process.
_PASS_ANY_FOLDER = [
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
]


class StackError(Exception):
    """The local stack cannot start or continue; the message says why and which log to read."""


class Component(NamedTuple):
    """A process of the stack, the leader of a new session."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Supervisor:
    """
    Start processes, and stop all of them at the end: first the programs, then the services that they use.

    A small process, the guard, stops them when the pipe from this process closes. It does so even when this process
    is killed, and a second Ctrl-C does not interrupt it.

    :param grace_s: seconds that processes have to end after the stop signal; then they are killed
    """

    def __init__(self, grace_s: float = 10.0) -> None:
        self.components: list[Component] = []
        self._grace_s = grace_s
        self._sessions: dict[int, _Session] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def lock(self, file: Path) -> None:
        """
        Write this process's ID to a file, and lock it until all processes are stopped.

        Call it before the first start. Raises :class:`StackError` when another process holds the lock.
        """
        held = file.open("a+")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.seek(0)
            owner = held.read() or "unknown"
            held.close()
            raise StackError(
                f"Airflow is already running in {file.parent} (process {owner}). Stop it first: press Ctrl-C in its "
                f"terminal, or run kill -INT {owner}."
            ) from error
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        self._lock = held

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        is_service: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> Component:
        """
        Start a process in a new session, and append its output to a log.

        :param is_service: stop it after everything that is not a service
        :param stop_signal: signal that asks its process group to end
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
        self._sessions[process.pid] = session = _Session(process.pid, stop_signal, is_service)
        self._notify_guard(f"start {session.leader} {session.stop_signal:d} {session.is_service:d}\n")
        component = Component(name, process, log)
        self.components.append(component)
        return component

    def run(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log: Path, timeout_s: float
    ) -> None:
        """Run a process until it ends; raise :class:`StackError` when it fails or exceeds its time."""
        component = self.start(name, argv, env=env, log=log)
        try:
            code = component.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{name} takes longer than {timeout_s:g} s.\n{tail(log)}") from error
        if code != 0:
            raise StackError(f"{name} ended with code {code}.\n{tail(log)}")
        self._forget(component)

    def kill(self, component: Component) -> set[int]:
        """Kill a process with all its descendants, and return their IDs once all are gone."""
        found: set[int] = set()
        # All are paused before one is killed: none can react to the end of another or start a new one.
        while new := members([component.process.pid]) - found:
            _send(signal.SIGSTOP, new)
            found |= new
        _send(signal.SIGKILL, found)
        component.process.wait()
        while found & living_processes().keys():
            time.sleep(_POLL_S)
        self._forget(component)
        return found

    def check(self) -> None:
        """Raise :class:`StackError` with the last lines of its log when a process has ended."""
        for name, process, log in self.components:
            code = process.poll()
            if code is not None:
                raise StackError(f"{name} ended with code {code}.\n{tail(log)}")

    def wait_until(self, done: Callable[[], bool], timeout_s: float, waiting_for: Callable[[], str]) -> None:
        """
        Poll until ``done()``; raise :class:`StackError` at the timeout, or when a process ends meanwhile.

        :param waiting_for: describes what is missing, for the error message
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            if done():
                return
            if time.monotonic() > deadline:
                raise StackError(f"Timed out after {timeout_s:g} s: {waiting_for()}")
            time.sleep(_POLL_S)

    def processes(self) -> set[int]:
        """Return the IDs of all living processes: those that were started, and their descendants."""
        return members(self._sessions)

    def stop(self) -> None:
        """Stop all processes, and return when none is left."""
        if self._guard is not None:
            guard, self._guard = self._guard, None
            if guard.stdin is not None:
                with suppress(BrokenPipeError):
                    guard.stdin.close()
            if guard.wait() != 0:  # the guard was killed
                _stop_sessions(self._sessions.values(), self._grace_s)
            for component in self.components:
                component.process.wait()
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _start_guard(self) -> None:
        if self._guard is None:
            self._guard = subprocess.Popen(  # noqa: S603 - this file
                [sys.executable, "-I", str(Path(__file__).resolve()), str(self._grace_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[self._lock.fileno()] if self._lock else [],
            )

    def _forget(self, component: Component) -> None:
        self.components.remove(component)
        del self._sessions[component.process.pid]
        self._notify_guard(f"end {component.process.pid}\n")

    def _notify_guard(self, line: str) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(BrokenPipeError):  # the guard was killed: stop() does its work
                self._guard.stdin.write(line.encode())
                self._guard.stdin.flush()


def living_processes() -> dict[int, int]:
    """Return the parent of each process on this machine; zombies are excluded."""
    ended = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    found = psutil.process_iter(["ppid", "status"])
    return {process.pid: process.info["ppid"] for process in found if process.info["status"] not in ended}


def members(leaders: Iterable[int]) -> set[int]:
    """
    Return the living processes of these sessions, and their descendants.

    The session alone misses PostgreSQL's back ends, each in a new session; descent alone misses orphans.
    """
    parents = living_processes()
    wanted = set(leaders)
    found = {pid for pid in parents if _session_of(pid) in wanted}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log, under its name."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([f"--- last lines of {log}:", *text.splitlines()[-lines:]])


def choose_port(preferred: int | None = None) -> int:
    """Return a free port of the loopback address, the preferred one if it is free."""
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket() as probe:
            # A port whose last connections are still closing counts as free, as it does for the server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("No free port on the loopback address.")


def hand_over(folder: Path) -> None:
    """As root, give a folder and its content to the unprivileged user."""
    if os.geteuid() != 0:
        return
    user = pwd.getpwnam(_USER)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def unprivileged(program: Path, folder: Path) -> list[str]:
    """
    Return the command prefix that runs a program as an unprivileged user; empty when this process is not root.

    Database servers refuse to run as root, which is the user in most containers.

    :param program: a program that must be able to run
    :param folder: a folder that must be writable; see :func:`hand_over`
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "Database servers do not run as root: install setpriv (package util-linux), or be another user."
        )
    user = pwd.getpwnam(_USER)
    become = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    probe = ["/bin/sh", "-c", '"$1" --version && test -w "$2"', "probe", str(program), str(folder)]
    for extra in ([], _PASS_ANY_FOLDER):
        prefix = [setpriv, *extra, *become]
        if subprocess.run([*prefix, *probe], check=False, capture_output=True).returncode == 0:  # noqa: S603 - fixed
            return prefix
    raise StackError(
        f"The user {_USER} cannot run {program} or write to {folder}: put the project into another folder."
    )


class _Session(NamedTuple):
    """A session to stop; its leader's ID is also that of the session and of the process group."""

    leader: int
    stop_signal: signal.Signals
    is_service: bool


def _stop_sessions(sessions: Iterable[_Session], grace_s: float) -> None:
    sessions = list(sessions)
    for is_service in (False, True):
        _stop_together([session for session in sessions if session.is_service == is_service], grace_s)


def _stop_together(sessions: list[_Session], grace_s: float) -> None:
    leaders = [session.leader for session in sessions]
    known = members(leaders)
    for session in sessions:
        with suppress(ProcessLookupError):
            os.killpg(session.leader, session.stop_signal)
    deadline = time.monotonic() + grace_s
    while left := (known & living_processes().keys()) | members(leaders):
        known |= left
        if time.monotonic() > deadline:
            _send(signal.SIGKILL, left)
        time.sleep(_POLL_S)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def _guard_main(grace_s: float) -> None:
    """Read sessions until the input ends, then stop those that are left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sessions: dict[int, _Session] = {}
    for line in sys.stdin:
        event, leader, *rest = line.split()
        if event == "end":
            sessions.pop(int(leader), None)
        else:
            sessions[int(leader)] = _Session(int(leader), signal.Signals(int(rest[0])), rest[1] == "1")
    _stop_sessions(sessions.values(), grace_s)


if __name__ == "__main__":
    _guard_main(float(sys.argv[1]))
