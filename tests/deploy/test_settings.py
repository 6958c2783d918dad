"""Every setting and command in the deployment files exists in the installed Airflow."""

from __future__ import annotations

import re
from typing import Any

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.configuration import retrieve_configuration_description

from tests.support.deployment import DOCKERFILE, HELM, OURS

_NAME = re.compile(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+?)(?:_CMD)?(?![A-Z_])")
_SETTINGS = {
    *_NAME.findall(DOCKERFILE),
    *(
        option
        for service in OURS.values()
        for name in service["environment"]
        for option in _NAME.findall(name)
    ),
    *((section.upper(), key.upper()) for section, options in HELM["config"].items() for key in options),
}
_OF_PROVIDERS = ("celery", "users")
"""How sections and commands begin that providers bring; test_build.py tries these commands where they are installed."""


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return retrieve_configuration_description(include_airflow=True, include_providers=True)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        pytest.param(*setting, marks=[pytest.mark.systems] * setting[0].lower().startswith(_OF_PROVIDERS))
        for setting in sorted(_SETTINGS)
    ],
    ids=lambda word: word.lower(),
)
def test_setting_exists_in_airflow(known, section, key):
    assert key.lower() in known[section.lower()]["options"]


def commands() -> list[list[str]]:
    lines = [service["command"] for service in OURS.values()]
    lines += [service.get("healthcheck", {}).get("test", [])[1:] for service in OURS.values()]
    lines += [HELM[job]["args"] for job in ("migrateDatabaseJob", "createUserJob")]
    found = []
    for line in lines:
        # A script is the last word of a list.
        for script in [" ".join(line)] if line[:1] == ["airflow"] else line[-1:]:
            for each in re.findall(r"^\s*(?:exec )?airflow (.*)$", script.replace("\\\n", " "), re.MULTILINE):
                words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", each)
                found.append([word.strip("'\"").replace("$$POOL_SLOTS", "4") for word in words])
    return found


def test_commands_are_found():
    assert {tuple(words[:2]) for words in commands()} >= {
        ("db", "migrate"),
        ("pools", "set"),
        ("users", "create"),
        ("celery", "worker"),
        ("jobs", "check"),
        ("api-server",),
        ("scheduler",),
    }


@pytest.mark.parametrize(
    "words", [words for words in commands() if not words[0].startswith(_OF_PROVIDERS)], ids=" ".join
)
def test_command_exists_in_airflow(words):
    get_parser().parse_args(words)
