from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_crm.cli.init_project import FILES, TEMPLATES
from zoho_crm.hooks.connection import EXTRAS

if TYPE_CHECKING:
    import pytest

    from tests.plugins.zoho_crm.cli.conftest import Cli

PAGE = Path(__file__).parents[4] / "docs" / "cli.md"


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_templates_are_all_written(cli: Cli, tmp_path: Path) -> None:
    done = cli("init", tmp_path / "project")
    assert done.exit_code == 0
    assert files_of(tmp_path / "project") == set(FILES)
    assert {name for name in files_of(TEMPLATES) if "__pycache__" not in name} == set(FILES)
    for name in FILES:
        assert f"ok: wrote {tmp_path}/project/{name}\n" in done.stdout
        assert (tmp_path / "project" / name).read_bytes() == (TEMPLATES / name).read_bytes()


def test_folder_is_the_current_one_by_default(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = cli.document("init")
    assert document["ok"] is True
    assert document["written"] == list(FILES)
    assert not any(step.startswith("Change to the folder") for step in document["next_steps"])
    assert files_of(tmp_path) == set(FILES)


def test_existing_files_are_named_and_kept(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "dags" / "zoho_delink.py"
    mine.parent.mkdir()
    mine.write_text("mine")
    done = cli("init", tmp_path)
    assert done.exit_code == 1
    assert f"error: {mine} exists and was not changed\n" in done.stdout
    assert mine.read_text() == "mine"
    assert files_of(tmp_path) == set(FILES)
    again = cli.document("init", tmp_path, code=1)
    assert (again["ok"], again["written"], again["kept"]) == (False, [], list(FILES))
    assert mine.read_text() == "mine"


def test_a_dangling_link_is_kept(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "zoho_delink.py").symlink_to(tmp_path / "elsewhere.py")
    assert cli("init", tmp_path).exit_code == 1
    assert not (tmp_path / "elsewhere.py").exists()


def test_a_file_in_the_way_of_a_folder_is_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "include").write_text("a file")
    done = cli("init", tmp_path)
    assert done.exit_code == 2
    assert f"Cannot write {tmp_path}/include/jobs/contacts_deals.yaml: " in done.stderr


def test_next_steps_start_in_the_new_folder(cli: Cli, tmp_path: Path) -> None:
    steps = cli.document("init", tmp_path / "my project")["next_steps"]
    assert steps[0] == f"Change to the folder: cd '{tmp_path}/my project'"


def test_docs_show_the_output(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"$ zoho-delink init zoho\n{cli('init', 'zoho').stdout}```\n" in PAGE.read_text()


def test_sample_job_passes_its_check(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("init", tmp_path)
    monkeypatch.chdir(tmp_path)
    document = cli.document("check-job", "include/jobs/contacts_deals.yaml")
    assert (document["ok"], document["dag"]) == (True, "zoho_delink__contacts_deals")
    # A new project sends nothing by itself.
    assert document["next_windows"] == []
    assert document["guards"]["max_links"] == 100


def test_connection_template_has_the_connections_of_the_sample_job() -> None:
    text = (TEMPLATES / "connections.env.example").read_text()
    connections = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    assert set(connections) == {
        "AIRFLOW_CONN_ZOHO_CRM_DEFAULT",
        "AIRFLOW_CONN_WAREHOUSE",
        "AIRFLOW_CONN_ZOHO_DELINK_AUDIT",
    }
    zoho = json.loads(connections["AIRFLOW_CONN_ZOHO_CRM_DEFAULT"])
    assert zoho["conn_type"] == "zoho_crm"
    assert set(zoho["extra"]) <= EXTRAS
    for name in connections:
        assert json.loads(connections[name])["conn_type"]
