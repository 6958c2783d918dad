from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.stack import guard
from include.stack.guard import Session
from include.stack.processes import ComponentDiedError, Keeper, StackError

_PROJECT = Path(__file__).parents[3]

# Starts a child of its own, in a process group of its own, that only SIGKILL can end.
_STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = "import time; print('ready', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", sleep], process_group=0)
time.sleep(60)
"""


def _start(keeper: Keeper, tmp_path: Path, code: str, **options: object) -> None:
    keeper.start("it", [sys.executable, "-c", code], env=dict(os.environ), log=tmp_path / "it.log", **options)


def _wait_for_text(file: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (file.read_text() if file.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} does not appear in {file}"
        time.sleep(0.02)


def test_a_session_survives_its_line():
    session = Session(leader=7, stop_signal="SIGINT", phase=2, grace_s=0.5)

    assert Session.from_line(session.to_line()) == session


def test_stop_kills_what_does_not_end_and_what_it_started(tmp_path):
    keeper = Keeper()
    _start(keeper, tmp_path, _STUBBORN, grace_s=0.2)
    _wait_for_text(tmp_path / "it.log", "ready")
    living = keeper.living()
    assert len(living) == 2

    keeper.stop()

    assert not keeper.living()
    assert not living & {process.pid for process in guard.living_processes()}


def test_stop_asks_a_later_phase_only_when_the_earlier_one_is_gone(tmp_path):
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
    with Keeper() as keeper:
        for name, phase, stop_signal, delay in [("last", 1, "SIGINT", 0), ("first", 0, "SIGTERM", 0.2)]:
            code = report.format(name=name, signal=stop_signal, delay=delay)
            _start(keeper, tmp_path, code, phase=phase, stop_signal=stop_signal)
            _wait_for_text(tmp_path / "it.log", f"ready {name}")

    assert (tmp_path / "it.log").read_text().splitlines()[-2:] == ["first", "last"]


def test_stop_works_without_the_guard(tmp_path):
    with Keeper() as keeper:
        _start(keeper, tmp_path, _STUBBORN, grace_s=0.2)
        _wait_for_text(tmp_path / "it.log", "ready")
        os.kill(keeper._guard.pid, signal.SIGKILL)

    assert not keeper.living()


def test_nothing_outlives_an_owner_that_is_killed(tmp_path):
    owner = f"""
import os, sys, time
from pathlib import Path
from include.stack.processes import Keeper
keeper = Keeper()
log = Path({str(tmp_path / "it.log")!r})
keeper.start("it", [sys.executable, "-c", {_STUBBORN!r}], env=dict(os.environ), log=log, grace_s=0.2)
print(keeper.components[0].process.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", owner], cwd=_PROJECT, stdout=subprocess.PIPE, text=True)
    with process:
        leader = int(process.stdout.readline())
        _wait_for_text(tmp_path / "it.log", "ready")
        process.kill()

    deadline = time.monotonic() + 20
    while guard.members([leader]):
        assert time.monotonic() < deadline, "the processes of a killed owner live on"
        time.sleep(0.05)


def test_check_tells_what_died_and_why(tmp_path):
    with Keeper() as keeper:
        _start(keeper, tmp_path, "raise SystemExit('the reason')")
        keeper.components[0].process.wait()

        with pytest.raises(ComponentDiedError, match=r"(?s)it ended with code 1.*the reason"):
            keeper.check()


def test_run_tells_why_a_program_failed(tmp_path):
    with Keeper() as keeper, pytest.raises(StackError, match=r"(?s)it ended with code 3.*the reason"):
        keeper.run(
            "it",
            [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
            env={},
            log=tmp_path / "it.log",
            timeout_s=20,
        )


def test_run_forgets_a_program_that_ended(tmp_path):
    with Keeper() as keeper:
        keeper.run("it", [sys.executable, "-c", ""], env={}, log=tmp_path / "it.log", timeout_s=20)

        keeper.check()
        assert keeper.components == []


def test_kill_leaves_nothing_of_one_process_and_the_others_alone(tmp_path):
    with Keeper() as keeper:
        _start(keeper, tmp_path, _STUBBORN)
        _wait_for_text(tmp_path / "it.log", "ready")
        (doomed,) = keeper.components
        family = keeper.living()
        other = keeper.start("other", ["sleep", "60"], env=dict(os.environ), log=tmp_path / "other.log")

        killed = keeper.kill(doomed)

        assert killed == family
        assert len(killed) == 2
        assert doomed.process.poll() == -signal.SIGKILL
        assert keeper.living() == {other.process.pid}
        keeper.check()
