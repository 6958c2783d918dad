"""The Dags on past runs: read by Airflow itself, and run over a thousand links with attributes."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml

from include.demo.world import connections
from tests.support.live_dags import PROJECT, LiveDags
from tests.support.releases import DagSerialization
from zoho_crm.airflow_compat import DagBag, has_retry_policies
from zoho_crm.core.job_files import load_jobs
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import DAG

# Airflow's own reading of .airflowignore and of plugins, while it reads Dags.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

RETRY, RELINK = "zoho_delink_retry", "zoho_delink_relink"
FORMS = {
    RETRY: [
        "job",
        "run",
        "mode",
        "reason",
        "max_links",
        "verify",
        "outcomes",
        "window_start",
        "window_end",
    ],
    RELINK: [
        "job",
        "run",
        "mode",
        "reason",
        "max_links",
        "verify",
        "include_presumed",
        "links",
        "external_id_prefix",
        "related_external_id_prefix",
        "finished_from",
        "finished_to",
        "zoho_code",
    ],
}


def read_dags() -> DagBag:
    return DagBag(dag_folder=PROJECT / "dags", bundle_path=PROJECT / "dags")


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    return dict(read_dags().dags)


@pytest.mark.parametrize(("dag_id", "mapped"), [(RETRY, "delink"), (RELINK, "relink")])
def test_tasks_are_those_of_a_job(dags: dict[str, DAG], dag_id: str, mapped: str) -> None:
    dag = dags[dag_id]
    assert {task_id: task.downstream_task_ids for task_id, task in dag.task_dict.items()} == {
        "preflight": {"plan"},
        "plan": {"guard", mapped},
        "guard": {"approve"},
        "approve": {mapped},
        mapped: {"report"},
        "report": set(),
    }
    assert dag.get_task("report").trigger_rule == "all_done"
    assert ("retry_policy" in dag.get_task(mapped).partial_kwargs) is has_retry_policies()
    stored = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
    assert set(DagSerialization.deserialize_dag(stored).task_dict) == set(dag.task_dict)


@pytest.mark.parametrize(("dag_id", "mapped"), [(RETRY, "delink"), (RELINK, "relink")])
@pytest.mark.parametrize(
    "audited", [{}, {"audit_conn_id": "zoho_delink_audit"}], ids=["no ledger", "own plan"]
)
@pytest.mark.parametrize("links", [{"links": [["c-1", "d-1"]]}, {"links": None}, {}], ids=str)
def test_changed_result_of_plan_names_no_links_outside_of_a_stored_plan(
    dags: dict[str, DAG], dag_id: str, mapped: str, audited: dict[str, Any], links: dict[str, Any]
) -> None:
    task: Any = dags[dag_id].get_task(mapped)
    names = {
        "module": "Contacts",
        "external_field": "External_Contact_ID",
        "related_list": "Deals",
        "related_external_field": "External_Deal_ID",
    }
    with pytest.raises((TypeError, ValueError), match="links"):
        task.unmap({**names, **audited, **links})
    chunk = {"run_key": "contacts_deals:1", "chunk_no": 0, "links": 1, "label": "1/1 from c-1"}
    with pytest.raises(ValueError, match="audit_conn_id: required with chunk"):
        task.unmap({**names, "chunk": chunk})


@pytest.mark.parametrize("dag_id", FORMS)
def test_the_form_names_the_jobs_there_are_and_is_harmless(dags: dict[str, DAG], dag_id: str) -> None:
    params = dags[dag_id].params
    assert list(params) == FORMS[dag_id]
    assert params.get_param("job").schema["enum"] == [
        job.name for job in load_jobs(PROJECT / "include" / "jobs")[0]
    ]
    assert not params.get_param("job").has_value
    assert params["mode"] == "auto"
    assert dags[dag_id].max_active_runs == 1
    assert params.get_param("run").schema["type"] == (["null", "string"] if dag_id == RETRY else "string")


@pytest.mark.parametrize("dag_id", FORMS)
def test_without_a_job_file_any_name_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag_id: str
) -> None:
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(tmp_path))
    found = read_dags()
    assert found.import_errors == {}
    assert "enum" not in found.dags[dag_id].params.get_param("job").schema


ROLES: tuple[dict[str, Any], ...] = (
    {},
    {"Contact_Role": "Decision Maker"},
    {"Contact_Role": "Purchasing"},
)
LINKS = [(f"c-{number % 250:04}", f"d-{number:04}") for number in range(1_000)]
GONE_BEFORE, BACK_BY_HAND, BACK_OTHERWISE = LINKS[:50], LINKS[50:110], LINKS[110:150]
STOPPED = [(f"s-{number:04}", f"t-{number:04}") for number in range(60)]
Link = tuple[str, str, str]


class World:
    """A local Zoho, a warehouse that wants links out of it, two jobs, and the audit."""

    def __init__(self, home: Path, zoho: LocalZoho) -> None:
        self.zoho, self.audit = zoho, home / "audit.db"
        jobs, sql = home / "include" / "jobs", home / "include" / "sql"
        jobs.mkdir(parents=True)
        sql.mkdir()
        sample = yaml.safe_load((PROJECT / "include" / "jobs" / "contacts_deals.yaml").read_text())
        text = (PROJECT / "include" / "sql" / "contacts_deals.sql").read_text()
        for name, links in (("thousand", LINKS), ("stopped", STOPPED)):
            source = {**sample["source"], "sql_file": f"{name}.sql"}
            job = {**sample, "source": source, "snapshot": True, "retries": 0, "chunk_size": 400}
            (jobs / f"{name}.yaml").write_text(yaml.safe_dump(job))
            (sql / f"{name}.sql").write_text(text.replace("contacts_deals", name))
            self._mark(home / "warehouse.db", name, links)
        self.env = {
            **connections(zoho.port, home / "warehouse.db", self.audit),
            "ZOHO_CRM_JOBS_FOLDER": str(jobs),
        }

    @staticmethod
    def _mark(warehouse: Path, name: str, links: list[tuple[str, str]]) -> None:
        with closing(sqlite3.connect(warehouse)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS crm_links_to_remove (relation, parent_id, related_id, marked_at)"
            )
            connection.executemany(
                "INSERT INTO crm_links_to_remove VALUES (?, ?, ?, '2026-11-01 00:00:00.000000')",
                [(name, *link) for link in links],
            )

    def links(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All links of contacts and deals, with their attributes."""
        return {
            (link["external_id"], link["related_external_id"]): link["attributes"]
            for link in self.zoho.state.crm.to_json()
            if (link["module"], link["related_list"]) == ("Contacts", "Deals")
        }

    def calls(self) -> Counter[str]:
        return Counter(
            one.method for one in self.zoho.state.journal.requests if one.path.startswith("/crm/v7/C")
        )

    def rows(self, query: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.audit)) as connection:
            return connection.execute(query, values).fetchall()

    def outcomes(self, run_id: str) -> dict[str, int]:
        return dict(
            self.rows(
                "SELECT outcome, count(*) FROM zoho_delink_latest WHERE dag_run_id = ? GROUP BY outcome",
                run_id,
            )
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with LocalZoho() as zoho:
        zoho.state.configure(journal_size=20_000)
        for number, (contact, deal) in enumerate(LINKS):
            zoho.state.link("Contacts", contact, "Deals", deal, ROLES[number % 3])
        for contact, deal in STOPPED:
            zoho.state.link("Contacts", contact, "Deals", deal, ROLES[1])
        zoho.state.link("Contacts", "c-0000", "Deals", "kept", ROLES[2])
        yield World(tmp_path_factory.mktemp("world"), zoho)


@pytest.fixture
def live(world: World, live_dags: LiveDags) -> LiveDags:
    live_dags.env = world.env
    return live_dags


@pytest.mark.systems
def test_a_thousand_links_are_relinked_as_they_were(world: World, live: LiveDags) -> None:
    state = world.zoho.state
    for contact, deal in GONE_BEFORE:
        state.unlink("Contacts", contact, "Deals", deal)
    before = world.links()
    removal = live.run("zoho_delink__thousand", mode="apply")
    assert world.outcomes(removal) == {"removed": 950, "already_absent": 50}
    assert set(before) - set(world.links()) == set(LINKS[50:])

    # Another user relinks some, a few with another role: those are theirs now.
    for contact, deal in BACK_BY_HAND:
        state.link("Contacts", contact, "Deals", deal, before[contact, deal])
    for contact, deal in BACK_OTHERWISE:
        state.link("Contacts", contact, "Deals", deal, {"Contact_Role": "Executive Sponsor"})
    theirs = {link: world.links()[link] for link in BACK_OTHERWISE}
    asked = {"job": "thousand", "run": removal}

    counted = live.run(RELINK, **asked, verify=True)
    assert world.outcomes(counted) == {"would_relink": 850, "already_linked": 100}
    assert world.calls()["PUT"] == 0

    part = live.run(RELINK, **asked, mode="apply", related_external_id_prefix="d-09")
    assert world.outcomes(part) == {"relinked": 100}
    rest = live.run(RELINK, **asked, mode="apply", reason="it was the wrong source")
    assert world.outcomes(rest) == {"relinked": 750, "already_linked": 100}

    assert world.links() == {**before, **theirs}
    assert world.calls()["PUT"] == 850
    assert world.outcomes(live.run(RELINK, **asked, mode="apply")) == {}
    assert world.calls()["PUT"] == 850
    assert list(state.journal.harms) == []
    ((key,),) = world.rows("SELECT run_key FROM zoho_delink_run WHERE dag_run_id = ?", removal)
    assert world.rows(
        "SELECT operation, origin_run_key, mode, status, reason FROM zoho_delink_run WHERE dag_run_id = ?",
        rest,
    ) == [("relink", key, "apply", "succeeded", "it was the wrong source")]
    assert world.rows("SELECT DISTINCT operation FROM zoho_delink_audit WHERE dag_run_id = ?", rest) == [
        ("relink",)
    ]


def test_unfinished_links_of_a_stopped_run_are_retried_once(world: World, live: LiveDags) -> None:
    state = world.zoho.state
    before = world.links()
    refusal = {"code": "NO_PERMISSION", "details": {}, "message": "permission denied", "status": "error"}
    state.faults.add(
        do="status",
        status=403,
        body=json.dumps(refusal),
        times=None,
        match={"method": "DELETE", "path": "/s-", "nth": 21},
    )
    stopped = live.run("zoho_delink__stopped", "failed", mode="apply")
    left = world.outcomes(stopped)
    assert left["removed"] == 20
    assert left["not_attempted"] > 20
    state.faults.clear()
    asked = {"job": "stopped", "run": stopped}
    deletes = world.calls()["DELETE"]

    assert world.outcomes(live.run(RETRY, **asked)) == {"would_remove": 40}
    assert world.calls()["DELETE"] == deletes
    driven = live.run(RETRY, **asked, mode="apply")
    assert world.outcomes(driven) == {"removed": 40}
    assert world.calls()["DELETE"] == deletes + 40
    assert world.outcomes(live.run(RETRY, **asked, mode="apply")) == {}
    assert set(before) - set(world.links()) == set(STOPPED)

    # What two runs removed is relinked run by run.
    for run_id, links in ((stopped, 20), (driven, 40)):
        back = live.run(RELINK, job="stopped", run=run_id, mode="apply")
        assert world.outcomes(back) == {"relinked": links}
    assert world.links() == before
    assert list(state.journal.harms) == []
    ledger = Ledger(sa.create_engine(f"sqlite:///{world.audit}"))
    assert list(ledger.chain.verify()) == []
    ledger.close()
