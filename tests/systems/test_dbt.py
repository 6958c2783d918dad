"""The code of docs/dbt.md: a real dbt builds the table of links, and the Dag removes them."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
import yaml
from airflow.sdk import Asset

from zoho_crm.airflow_compat import DagBag
from zoho_crm.testing import FakeZoho

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.airflow_process import Run
    from tests.support.postgres import PostgresServer

PAGE = (Path(__file__).parents[2] / "docs" / "dbt.md").read_text()
MODEL, SQL = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
JOB, SCHEDULE = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ONE_DAG, BY_ASSET, _ = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

DBT_PROJECT = "{name: crm, version: '1.0', profile: crm, model-paths: [models]}"
SOURCES = """\
sources:
  - {name: crm, schema: crm, tables: [{name: contact_deals}]}
  - {name: erp, schema: erp, tables: [{name: contact_deals}]}
"""
RUN = """\
import sys
from zoho_crm.airflow_compat import DagBag
bag = DagBag(dag_folder=sys.argv[1])
print("state", bag.dags["nightly"].test(run_conf={"mode": "apply"}).state)
"""


@pytest.fixture(scope="module")
def dbt(uv: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install dbt in a separate environment, and return its folder of programs."""
    folder = tmp_path_factory.mktemp("dbt") / "venv"
    uv("venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    # Its newest release may need a package that is there as source only.
    uv(
        *("pip", "install", "--quiet", "--python", python, "--only-binary", ":all:"),
        *("dbt-core<2", "dbt-postgres<2"),
    )
    return python.parent


def write_project(project: Path, dag: str) -> Path:
    for name, text in {
        "include/jobs/contacts_deals.yaml": JOB,
        "include/sql/contacts_deals.sql": SQL,
        "dags/nightly.py": dag,
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    return project / "dags"


def write_dbt_project(folder: Path, server: PostgresServer, database: str) -> None:
    target = {
        "type": "postgres",
        "host": server.socket_dir,
        "port": 5432,
        "user": server.user,
        "password": "unused",
        "dbname": database,
        "schema": "analytics",
        "threads": 1,
    }
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "stale_contacts_deals.sql").write_text(MODEL)
    (folder / "models" / "sources.yml").write_text(SOURCES)
    (folder / "dbt_project.yml").write_text(DBT_PROJECT)
    (folder / "profiles.yml").write_text(json.dumps({"crm": {"target": "t", "outputs": {"t": target}}}))


def test_links_are_removed_that_dbt_finds_stale(
    tmp_path: Path, dbt: Path, postgres_server: PostgresServer, run_with_airflow: Run
) -> None:
    dags = write_project(tmp_path, ONE_DAG)
    with postgres_server.database() as database, FakeZoho() as fake:
        write_dbt_project(tmp_path / "dbt", postgres_server, database)
        engine = sa.create_engine(postgres_server.url(database), poolclass=sa.NullPool)
        with engine.begin() as connection:
            for schema in ("crm", "erp"):
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
                connection.exec_driver_sql(
                    f"CREATE TABLE {schema}.contact_deals (contact_id text, deal_id text)"
                )
            connection.exec_driver_sql(
                "INSERT INTO crm.contact_deals VALUES ('c-1', 'd-1'), ('c-2', 'd-1'), ('c-2', 'd-2')"
            )
            connection.exec_driver_sql("INSERT INTO erp.contact_deals VALUES ('c-2', 'd-1')")
        for link in (("c-1", "d-1"), ("c-2", "d-1"), ("c-2", "d-2")):
            fake.link("Contacts", link[0], "Deals", link[1])
        warehouse = {
            "conn_type": "postgres",
            "host": postgres_server.socket_dir,
            "login": postgres_server.user,
            "schema": database,
        }
        done = run_with_airflow(
            *("-c", RUN, str(dags)),
            AIRFLOW_CONN_ZOHO_CRM_DEFAULT=fake.connection,
            AIRFLOW_CONN_WAREHOUSE=json.dumps(warehouse),
            AIRFLOW_CONN_ZOHO_DELINK_AUDIT=f"sqlite:///{tmp_path}/audit.db",
            AIRFLOW__CORE__DAGS_FOLDER=str(dags),
            DBT_PROJECT_DIR=str(tmp_path / "dbt"),
            DBT_PROFILES_DIR=str(tmp_path / "dbt"),
            DBT_SEND_ANONYMOUS_USAGE_STATS="false",
            PATH=f"{dbt}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )
        assert "state success" in done.stdout, done.stdout[-4000:] + done.stderr[-4000:]
        assert fake.links("Contacts", "Deals") == {("c-2", "d-1")}


def test_asset_of_dbt_is_that_of_the_job(tmp_path: Path) -> None:
    dags = write_project(tmp_path, BY_ASSET)
    (dags / "zoho_delink.py").write_text(
        "from zoho_crm.dags import delink_dags  # of airflow\nglobals().update(delink_dags('include/jobs'))\n"
    )
    job = tmp_path / "include" / "jobs" / "contacts_deals.yaml"
    job.write_text(yaml.safe_dump({**yaml.safe_load(JOB), **yaml.safe_load(SCHEDULE)}))
    bag = DagBag(dag_folder=dags)
    assert bag.import_errors == {}
    updated = bag.dags["dbt_nightly"].get_task("dbt_build").outlets
    assert updated == [Asset("stale_contacts_deals")]
    condition = bag.dags["zoho_delink__contacts_deals"].timetable.asset_condition
    assert list(condition.objects) == updated
