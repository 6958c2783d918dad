from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.support.deployment import HELM, PROJECT, SERVICES, pins
from zoho_crm import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (PROJECT / "deploy" / "helm-values.yaml").read_text()


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each leaf value with the path of its keys."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*path, str(key)))
    else:
        yield path, value


def test_versions_are_those_built_and_tested():
    assert HELM["defaultAirflowTag"] == __version__
    assert HELM["airflowVersion"] == pins("requirements-deploy.txt")["apache-airflow"]


def test_every_secret_is_referenced_and_none_is_included():
    assert HELM["data"].keys() == {"metadataSecretName", "brokerUrlSecretName"}
    assert {"fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"} <= HELM.keys()
    for path, value in leaves(HELM):
        if re.search(r"pass|secret|token|key$|connection", path[-1], re.IGNORECASE):
            assert path[-1].endswith("SecretName") or path[-2:-1] == ("secretKeyRef",), path
        assert not re.search(r"://[^/\s]*:[^/\s]*@", str(value)), path


def test_no_password_is_in_a_command_line():
    script = HELM["createUserJob"]["args"][-1]
    assert "--password" not in script
    assert script.startswith('printf \'%s\\n%s\\n\' "$ADMIN_PASSWORD" "$ADMIN_PASSWORD" |\n')


def test_each_component_has_only_the_connections_that_it_needs():
    names = {
        part: {variable["name"] for variable in HELM[part].get("env", ())}
        for part in ("workers", "apiServer", "scheduler", "dagProcessor", "triggerer")
    }
    zoho, audit = "AIRFLOW_CONN_ZOHO_CRM_DEFAULT", "AIRFLOW_CONN_ZOHO_DELINK_AUDIT"
    assert {part: found for part, found in names.items() if found} == {
        "workers": {zoho, audit},
        "apiServer": {audit},
    }
    assert not {"env", "extraEnv", "extraEnvFrom"} & HELM.keys()


def test_logs_need_no_volume_that_all_pods_share():
    assert HELM["logs"]["persistence"] == {"enabled": False}
    assert HELM["workers"]["celery"]["persistence"]["enabled"]
    assert HELM["triggerer"]["persistence"]["enabled"]


def test_jobs_are_no_hooks_and_can_be_replaced():
    for job in ("migrateDatabaseJob", "createUserJob"):
        assert HELM[job]["useHelmHooks"] is False
        assert HELM[job]["applyCustomEnv"] is False
        assert HELM[job]["ttlSecondsAfterFinished"] <= 300


def test_only_this_release_and_the_ingress_controller_reach_the_api_server():
    assert HELM["networkPolicies"]["enabled"]
    pods, ingress = HELM["apiServer"]["networkPolicy"]["ingress"]["from"]
    assert pods["podSelector"]["matchLabels"] == {"tier": "airflow", "release": "airflow"}
    assert ingress.keys() == {"namespaceSelector"}


def test_bundled_database_with_its_default_password_is_off():
    assert HELM["postgresql"]["enabled"] is False


def test_pool_matches_compose():
    (script,) = [line for line in SERVICES["init"]["command"] if "pools set" in line]
    name = re.compile(r"pools set (\S+)")
    assert name.findall(script) == name.findall(HELM["migrateDatabaseJob"]["args"][-1]) == ["zoho_crm"]


def test_workers_have_a_grace_period_and_limits():
    workers = HELM["workers"]
    assert workers["celery"]["terminationGracePeriodSeconds"] >= 600
    # Longer than the last requests of a task and their verification can take.
    assert workers["kubernetes"]["terminationGracePeriodSeconds"] >= 2 * (10 + 2 * 60)
    assert not workers["celery"]["safeToEvict"]
    assert not workers["kubernetes"]["safeToEvict"]
    for part in (
        workers["celery"],
        workers["kubernetes"],
        HELM["scheduler"],
        HELM["apiServer"],
        HELM["dagProcessor"],
        HELM["triggerer"],
    ):
        assert part["resources"].keys() == {"requests", "limits"}
