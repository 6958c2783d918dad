from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.plugins.zoho_crm.cli.fake_airflow import PASSWORD, TOKEN, FakeAirflow, fake_airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.zoho_crm.cli.conftest import Cli
    from tests.plugins.zoho_crm.operators.world import Audit

REAL = "scheduled__2026-11-21"
APPLY = ("--apply", "--yes", "--reason", "Zoho was down")
REDRIVE = ("redrive", "contacts_deals", "--window", "2026-11-01T00:00", "2026-12-01T00:00")


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    with fake_airflow() as server:
        monkeypatch.setenv("ZOHO_CRM_AIRFLOW_URL", server.url)
        monkeypatch.setenv("ZOHO_CRM_AIRFLOW_USER", "ada")
        monkeypatch.setenv("ZOHO_CRM_AIRFLOW_PASSWORD", PASSWORD)
        yield server


def leave_failed(audit: Audit) -> None:
    """As if the story's redrive had never been."""
    with audit.engine.begin() as connection:
        for table in ("audit", "link", "run"):
            connection.exec_driver_sql(
                f"DELETE FROM zoho_delink_{table} WHERE run_key = 'contacts_deals:manual__2026-11-22'"  # noqa: S608
            )


def test_links_that_a_later_run_has_settled_are_not_driven_again(cli: Cli, any_story: Audit) -> None:
    document = cli.document("redrive", "contacts_deals", "--run", REAL)
    assert document["counts"]["chosen"] == 0
    assert document["run_id"] is None
    assert "There is nothing to take up." in cli("redrive", "contacts_deals", "--run", REAL).stdout


def test_what_is_left_is_counted_by_its_last_outcome(cli: Cli, any_story: Audit) -> None:
    leave_failed(any_story)
    counts = cli.document("redrive", "contacts_deals", "--run", REAL)["counts"]
    assert (counts["chosen"], counts["failed"], counts["unknown"]) == (2, 1, 1)
    only = cli.document("redrive", "contacts_deals", "--run", REAL, "--outcomes", "unknown")["counts"]
    assert only["chosen"] == 1
    shown = cli("redrive", "contacts_deals", "--run", REAL)
    assert shown.exit_code == 0
    assert "Nothing was started: add --apply and --reason to do it." in shown.stdout


def test_the_links_that_a_run_removed_are_counted_with_what_became_of_them(
    cli: Cli, any_story: Audit
) -> None:
    counts = cli.document("relink", "contacts_deals", "--run", REAL)["counts"]
    assert (counts["chosen"], counts["put_back"], counts["already_absent"]) == (1, 1, 1)
    where = cli.document("relink", "contacts_deals", "--run", REAL, "--where", "external_id = 'c-1'")[
        "counts"
    ]
    assert where["chosen"] == 0
    one = cli.document("relink", "contacts_deals", "--run", REAL, "--link", "=1+1", "d-7")["counts"]
    assert (one["chosen"], one["pasted"]) == (1, 1)


def test_apply_starts_the_dag_with_the_form_and_tells_its_link(
    cli: Cli, story: Audit, airflow: FakeAirflow
) -> None:
    leave_failed(story)
    document = cli.document("redrive", "contacts_deals", "--run", REAL, "--outcomes", "failed", *APPLY)
    assert airflow.triggered() == [
        (
            "/api/v2/dags/zoho_delink_redrive/dagRuns",
            {
                "logical_date": None,
                "conf": {
                    "job": "contacts_deals",
                    "mode": "apply",
                    "reason": "Zoho was down",
                    "run": REAL,
                    "outcomes": ["failed"],
                },
            },
        )
    ]
    assert document["run_id"] == "manual__2026 / 1"
    assert document["link"] == f"{airflow.url}/dags/zoho_delink_redrive/runs/manual__2026%20%2F%201"


def test_relink_starts_its_dag_with_the_condition(cli: Cli, story: Audit, airflow: FakeAirflow) -> None:
    where = "related_external_id = 'd-7'"
    result = cli("relink", "contacts_deals", "--run", REAL, "--where", where, "--max-links", 5, *APPLY)
    assert result.exit_code == 0, result.output
    ((path, body),) = airflow.triggered()
    assert path == "/api/v2/dags/zoho_relink/dagRuns"
    assert body["conf"]["where"] == where
    assert body["conf"]["max_links"] == 5
    assert "ok: started manual__2026" in result.stdout
    for secret in (PASSWORD, TOKEN):
        assert secret not in result.output


def test_a_token_of_the_environment_is_used_as_it_is(
    cli: Cli, story: Audit, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("ZOHO_CRM_AIRFLOW_TOKEN", TOKEN)
    assert cli("relink", "contacts_deals", "--run", REAL, *APPLY).exit_code == 0
    assert {authorization for *_, authorization in airflow.calls} == {f"Bearer {TOKEN}"}
    assert not any(path == "/auth/token" for _, path, *_ in airflow.calls)


def test_nothing_to_take_up_starts_nothing(cli: Cli, story: Audit, airflow: FakeAirflow) -> None:
    assert cli("redrive", "contacts_deals", "--run", REAL, *APPLY).exit_code == 0
    assert airflow.calls == []


def test_a_paused_dag_is_told(cli: Cli, story: Audit, airflow: FakeAirflow) -> None:
    airflow.paused = True
    result = cli("relink", "contacts_deals", "--run", REAL, *APPLY)
    assert result.exit_code == 0
    assert "The Dag zoho_relink is paused" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--apply", "--yes"), "Say why with --reason"),
        (("--apply", "--reason", "because"), "add --yes"),
        (("--apply", "--reason", "because", "--json"), "add --yes"),
        (("--run", REAL, "--outcomes", "removed"), "outcomes: 'removed' cannot be driven again"),
    ],
    ids=["no reason", "nobody to ask", "nobody to ask in JSON", "outcome that is final"],
)
def test_what_cannot_be_meant_starts_nothing(
    cli: Cli, story: Audit, airflow: FakeAirflow, args: tuple[str, ...], said: str
) -> None:
    start = ("redrive", "contacts_deals") if "--run" in args else REDRIVE
    result = cli(*start, *args)
    assert result.exit_code == 2
    assert said in result.output
    assert airflow.calls == []


@pytest.mark.parametrize(
    ("part", "answer", "code", "said"),
    [
        ("/auth/token", (401, b"{}"), 2, "does not know you"),
        ("/dags/", (403, b'{"detail": "Forbidden"}'), 2, "does not let you do that"),
        (
            "/dags/",
            (404, b'{"detail": "The Dag was not found"}'),
            2,
            "does not have it: The Dag was not found",
        ),
        ("/dagRuns", (400, b'{"detail": "Invalid input for param mode"}'), 2, "Invalid input for param mode"),
        ("/dagRuns", (503, b"<html>"), 3, "answers 503"),
        ("/dags/", (200, b"<html>"), 2, "something else than JSON"),
        ("/dags/", (302, b""), 2, "answers 302"),
    ],
)
def test_what_airflow_refuses_is_told(
    cli: Cli, story: Audit, airflow: FakeAirflow, part: str, answer: tuple[int, bytes], code: int, said: str
) -> None:
    airflow.answers[part] = answer
    result = cli("relink", "contacts_deals", "--run", REAL, *APPLY)
    assert result.exit_code == code
    assert said in result.stderr
    assert not any(path == "/elsewhere" for _, path, *_ in airflow.calls)


def test_an_airflow_that_is_away_ends_with_3(cli: Cli, story: Audit, airflow: FakeAirflow) -> None:
    result = cli("relink", "contacts_deals", "--run", REAL, *APPLY, "--airflow-url", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "http://127.0.0.1:9 cannot be reached" in result.stderr


@pytest.mark.parametrize("url", ["ftp://x", "https://ada:pw@x", "airflow.example.com"])
def test_an_address_that_cannot_be_airflows_is_refused(
    cli: Cli, story: Audit, airflow: FakeAirflow, url: str
) -> None:
    result = cli("relink", "contacts_deals", "--run", REAL, *APPLY, "--airflow-url", url)
    assert result.exit_code == 2
    assert "pw" not in result.stderr


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 1)], ids=["yes", "no"])
def test_a_person_at_a_terminal_is_asked(story: Audit, airflow: FakeAirflow, typed: str, code: int) -> None:
    leader, follower = pty.openpty()
    try:
        os.write(leader, typed.encode())
        done = subprocess.run(
            [
                Path(sys.executable).with_name("zoho-delink"),
                *("relink", "contacts_deals", "--run", REAL, "--apply", "--reason", "a mistake"),
            ],
            stdin=follower,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == code, done.stderr
    assert "to take up\t1" in done.stdout
    assert "Start zoho_relink for 1 links?" in done.stderr
    assert len(airflow.triggered()) == (1 if code == 0 else 0)
