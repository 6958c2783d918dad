from __future__ import annotations

import os
import re
import subprocess
import tomllib

from tests.support.deployment import ENV_EXAMPLE, OURS, PROJECT, instructions, pins
from zoho_crm import __version__


def test_both_stages_share_one_versioned_base():
    base = instructions("ARG")[0].removeprefix("BASE_IMAGE=")
    assert {line.split()[0] for line in instructions("FROM")} == {"${BASE_IMAGE}"}
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-[a-z]+", base)
    assert ENV_EXAMPLE["BASE_IMAGE"] == base


def test_image_has_labels_with_version_and_base():
    (labels,) = instructions("LABEL")
    assert f'org.opencontainers.image.version="{__version__}"' in labels
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in labels
    # Without the second ARG, the label of the second stage would be empty.
    assert instructions("ARG")[1] == "BASE_IMAGE"
    assert 'org.opencontainers.image.base.name="${BASE_IMAGE}"' in labels


def test_image_runs_as_the_user_of_the_airflow_chart():
    assert instructions("USER") == ["50000:0"]
    assert "useradd --uid 50000 --gid 0" in instructions("RUN")[-1]
    assert "--owner 50000 --group 0 --mode 0775 /opt/airflow /opt/airflow/logs" in instructions("RUN")[-1]


def test_only_wheels_with_checked_hashes_are_installed():
    tools, wheel, _ = instructions("RUN")
    steps = [step for step in tools.split("&&") if "install" in step or "sync" in step]
    assert len(steps) == 2
    for step in steps:
        assert "--only-binary :all:" in step
        assert "--require-hashes" in step
    assert "--build-constraint requirements-dev.txt --require-hashes" in wheel
    assert "--no-deps dist/*.whl" in wheel
    copied = [line for line in instructions("COPY") if line.startswith("--from=build")]
    assert copied == ["--from=build /opt/venv /opt/venv"]


def test_copied_files_exist_and_are_not_ignored():
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert "*" in (PROJECT / ".dockerignore").read_text().splitlines()
    copied = {
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((PROJECT / source).exists() for source in copied)


def test_image_tags_have_the_version_of_the_package():
    assert {service["image"] for service in OURS.values()} == {f"zoho-crm-delink:{__version__}"}


def test_entrypoint_execs_the_command_with_a_group_writable_umask():
    entrypoint = PROJECT / "deploy" / "entrypoint.sh"
    assert os.access(entrypoint, os.X_OK)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "AIRFLOW_HOME": "/opt/airflow"}
    command = [entrypoint, "sh", "-c", 'umask; echo "$HOME"; echo "$0 $1"', "it's one", "two  words"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0002", "/opt/airflow", "it's one two  words"]


def test_entrypoint_sets_each_connection_from_its_file(tmp_path):
    (tmp_path / "AIRFLOW_CONN_ZOHO_CRM_DEFAULT").write_text('{"password": "it\'s $HOME"}')
    (tmp_path / "admin_password").write_text("secret")
    environment = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": "/", "SECRETS_FOLDER": str(tmp_path)}
    command = [PROJECT / "deploy" / "entrypoint.sh", "env"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert """AIRFLOW_CONN_ZOHO_CRM_DEFAULT={"password": "it's $HOME"}""" in done.stdout.splitlines()
    assert "secret" not in done.stdout


def test_entrypoint_returns_the_exit_code_of_the_command():
    command = [PROJECT / "deploy" / "entrypoint.sh", "sh", "-c", "exit 7"]
    assert subprocess.run(command, env={"AIRFLOW_HOME": "/"}, check=False).returncode == 7


def test_requirements_cover_the_group_and_match_the_tested_versions():
    group = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]["deploy"]
    deployed = pins("requirements-deploy.txt")
    assert {re.split(r"[\[<>=]", line)[0] for line in group} <= deployed.keys()
    for tested in (pins("requirements.txt"), pins("requirements-dev.txt")):
        assert {name: tested[name] for name in deployed.keys() & tested.keys()} == {
            name: deployed[name] for name in deployed.keys() & tested.keys()
        }
    assert pins("requirements.txt").keys() <= deployed.keys()


def test_every_requirement_has_hashes_and_no_url():
    text = (PROJECT / "requirements-deploy.txt").read_text()
    pinned = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert {re.split(r"[\[=]", line)[0] for line in pinned} == pins("requirements-deploy.txt").keys()
    assert all("--hash=sha256:" in line for line in pinned)
    assert "://" not in text
