from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from tests.support.deployment import HELM, PROJECT, SERVICES, pins

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (PROJECT / "deploy" / "helm-values.yaml").read_text()


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk over the values that hold no others, each with its keys."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*path, str(key)))
    else:
        yield path, value


def test_names_the_versions_that_are_built_and_tested():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert HELM["defaultAirflowTag"] == version
    assert HELM["airflowVersion"] == pins("requirements-deploy.txt")["apache-airflow"]


def test_names_every_secret_and_holds_none():
    assert HELM["data"].keys() == {"metadataSecretName", "brokerUrlSecretName"}
    assert {"fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"} <= HELM.keys()
    for path, value in leaves(HELM):
        if re.search(r"pass|secret|token|key$|connection", path[-1], re.IGNORECASE):
            assert path[-1].endswith("SecretName") or path[-2:-1] == ("secretKeyRef",), path
        assert not re.search(r"://[^/\s]*:[^/\s]*@", str(value)), path
    assert '--password "$ADMIN_PASSWORD"' in HELM["createUserJob"]["args"][-1]


def test_the_charts_own_database_with_its_known_password_is_off():
    assert HELM["postgresql"]["enabled"] is False


def test_makes_the_same_pool_as_compose():
    (script,) = [line for line in SERVICES["init"]["command"] if "pools set" in line]
    name = re.compile(r"pools set (\S+)")
    assert name.findall(script) == name.findall(HELM["migrateDatabaseJob"]["args"][-1]) == ["zoho_crm"]


def test_workers_have_time_to_end_and_bounds():
    workers = HELM["workers"]
    assert workers["celery"]["terminationGracePeriodSeconds"] >= 600
    # Longer than the last requests of a task may take, with what verifies them.
    assert workers["kubernetes"]["terminationGracePeriodSeconds"] >= 2 * (10 + 2 * 60)
    assert not workers["celery"]["safeToEvict"]
    assert not workers["kubernetes"]["safeToEvict"]
    for part in (
        *workers.values(),
        HELM["scheduler"],
        HELM["apiServer"],
        HELM["dagProcessor"],
        HELM["triggerer"],
    ):
        assert part["resources"].keys() == {"requests", "limits"}
