from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.stack.processes import StackError, Supervisor, choose_port, living_processes, members

_PROJECT = Path(__file__).parents[3]

# Starts a child in a new process group; only SIGKILL ends the parent.
_STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = "import time; print('ready', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", sleep], process_group=0)
time.sleep(60)
"""


def _start(supervisor: Supervisor, tmp_path: Path, code: str, **options: object) -> None:
    supervisor.start(
        "it", [sys.executable, "-c", code], env=dict(os.environ), log=tmp_path / "it.log", **options
    )


def _wait_for_text(file: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (file.read_text() if file.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} does not appear in {file}"
        time.sleep(0.02)


def test_stop_kills_processes_that_ignore_the_stop_signal_and_their_children(tmp_path):
    supervisor = Supervisor(grace_s=0.2)
    _start(supervisor, tmp_path, _STUBBORN)
    _wait_for_text(tmp_path / "it.log", "ready")
    living = supervisor.processes()
    assert len(living) == 2

    supervisor.stop()

    assert not supervisor.processes()
    assert not living & living_processes().keys()


def test_stop_ends_services_after_the_programs_that_use_them(tmp_path):
    report = """
import signal, sys, time
def end(*_):
    time.sleep({delay})
    print({name!r}, flush=True)
    sys.exit()
signal.signal(signal.{signal}, end)
print("ready", {name!r}, flush=True)
time.sleep(60)
"""
    with Supervisor() as supervisor:
        for name, stop_signal, delay in [("service", signal.SIGINT, 0), ("program", signal.SIGTERM, 0.2)]:
            code = report.format(name=name, signal=stop_signal.name, delay=delay)
            _start(supervisor, tmp_path, code, is_service=name == "service", stop_signal=stop_signal)
            _wait_for_text(tmp_path / "it.log", f"ready {name}")

    assert (tmp_path / "it.log").read_text().splitlines()[-2:] == ["program", "service"]


def test_stop_works_when_the_guard_was_killed(tmp_path):
    with Supervisor(grace_s=0.2) as supervisor:
        _start(supervisor, tmp_path, _STUBBORN)
        _wait_for_text(tmp_path / "it.log", "ready")
        os.kill(supervisor._guard.pid, signal.SIGKILL)

    assert not supervisor.processes()


def test_no_process_outlives_a_killed_owner(tmp_path):
    owner = f"""
import os, sys, time
from pathlib import Path
from include.stack.processes import Supervisor
supervisor = Supervisor(grace_s=0.2)
log = Path({str(tmp_path / "it.log")!r})
supervisor.start("it", [sys.executable, "-c", {_STUBBORN!r}], env=dict(os.environ), log=log)
print(supervisor.components[0].process.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", owner], cwd=_PROJECT, stdout=subprocess.PIPE, text=True)
    with process:
        leader = int(process.stdout.readline())
        _wait_for_text(tmp_path / "it.log", "ready")
        process.kill()

    deadline = time.monotonic() + 20
    while members([leader]):
        assert time.monotonic() < deadline, "processes of a killed owner are still alive"
        time.sleep(0.05)


def test_check_reports_which_process_ended_and_its_log(tmp_path):
    with Supervisor() as supervisor:
        _start(supervisor, tmp_path, "raise SystemExit('the reason')")
        supervisor.components[0].process.wait()

        with pytest.raises(StackError, match=r"(?s)it ended with code 1.*the reason"):
            supervisor.check()


def test_run_reports_why_a_program_failed(tmp_path):
    with Supervisor() as supervisor, pytest.raises(StackError, match=r"(?s)it ended with code 3.*the reason"):
        supervisor.run(
            "it",
            [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
            env={},
            log=tmp_path / "it.log",
            timeout_s=20,
        )


def test_run_forgets_a_program_that_ended(tmp_path):
    with Supervisor() as supervisor:
        supervisor.run("it", [sys.executable, "-c", ""], env={}, log=tmp_path / "it.log", timeout_s=20)

        supervisor.check()
        assert supervisor.components == []


def test_kill_ends_one_process_with_its_children_alone(tmp_path):
    with Supervisor() as supervisor:
        _start(supervisor, tmp_path, _STUBBORN)
        _wait_for_text(tmp_path / "it.log", "ready")
        (doomed,) = supervisor.components
        family = supervisor.processes()
        other = supervisor.start("other", ["sleep", "60"], env=dict(os.environ), log=tmp_path / "other.log")

        killed = supervisor.kill(doomed)

        assert killed == family
        assert len(killed) == 2
        assert doomed.process.poll() == -signal.SIGKILL
        assert supervisor.processes() == {other.process.pid}
        supervisor.check()


def test_stop_releases_the_lock_only_after_all_processes_have_ended(tmp_path):
    first, second = Supervisor(grace_s=0.2), Supervisor()
    first.lock(tmp_path / "stack.pid")
    _start(first, tmp_path, _STUBBORN)

    with pytest.raises(StackError, match=rf"already running in {tmp_path} \(process {os.getpid()}\)"):
        second.lock(tmp_path / "stack.pid")

    first.stop()
    second.lock(tmp_path / "stack.pid")
    second.stop()


def test_choose_port_prefers_a_free_port():
    port = choose_port()

    assert choose_port(preferred=port) == port


def test_choose_port_avoids_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = server.getsockname()[1]

        assert choose_port(preferred=used) not in {used, 0}
