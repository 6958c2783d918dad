"""What the files tell Airflow is something that this Airflow knows."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.configuration import retrieve_configuration_description

from tests.deploy._files import DOCKERFILE, HELM, OURS

_NAME = re.compile(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)")
_TOLD = {
    *_NAME.findall(DOCKERFILE),
    *(
        option
        for service in OURS.values()
        for name in service["environment"]
        for option in _NAME.findall(name)
    ),
    *((section.upper(), key.upper()) for section, options in HELM["config"].items() for key in options),
}
# Named beside a provider's settings or commands: what brings them.
_BROUGHT_BY = {"celery": "airflow.providers.celery", "users": "airflow.providers.fab"}


def need(word: str) -> None:
    """Skip where the provider is not installed that brings a section or a command."""
    provider = _BROUGHT_BY.get(word.partition("_")[0])
    if provider and find_spec(provider) is None:
        pytest.skip(f"{provider} is not installed")


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return retrieve_configuration_description(include_airflow=True, include_providers=True)


@pytest.mark.parametrize(("section", "key"), sorted(_TOLD), ids=lambda word: word.lower())
def test_every_setting_is_one_of_airflows(known, section, key):
    section = section.lower()
    need(section)
    assert key.lower() in known[section]["options"]


def commands() -> list[list[str]]:
    lines = [service["command"] for service in OURS.values()]
    lines += [service.get("healthcheck", {}).get("test", [])[1:] for service in OURS.values()]
    lines += [HELM[job]["args"] for job in ("migrateDatabaseJob", "createUserJob")]
    found = []
    for line in lines:
        # A script is a list's last word.
        for script in [" ".join(line)] if line[:1] == ["airflow"] else line[-1:]:
            for each in re.findall(r"^(?:exec )?airflow (.*)$", script.replace("\\\n", " "), re.MULTILINE):
                words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", each)
                found.append([word.strip("'\"").replace("$$POOL_SLOTS", "4") for word in words])
    return found


def test_finds_the_commands():
    assert {tuple(words[:2]) for words in commands()} >= {
        ("db", "migrate"),
        ("pools", "set"),
        ("users", "create"),
        ("celery", "worker"),
        ("jobs", "check"),
        ("api-server",),
        ("scheduler",),
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_one_of_airflows(words):
    need(words[0])
    get_parser().parse_args(words)
