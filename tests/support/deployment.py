"""The files of a deployment, read for the tests of this folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
COMPOSE_TEXT = (PROJECT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
HELM: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "helm-values.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {
    name: service for name, service in SERVICES.items() if service["image"].startswith("zoho-crm-delink:")
}
"""The services that run the image of this repository."""

ENV_EXAMPLE = dict(
    line.split("=", 1)
    for line in (PROJECT / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
)
REQUIRED = {name for name, value in ENV_EXAMPLE.items() if not value}
"""Variables that the example leaves empty, and that must be filled in."""


def instructions(name: str) -> list[str]:
    """Return the arguments of each of the Dockerfile's instructions of a name, its lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [" ".join(rest.split()) for rest in re.findall(rf"^{name}\s+(.*)$", joined, re.MULTILINE)]


def pins(file: str) -> dict[str, str]:
    """Return the version of each package of a file of requirements."""
    text = (PROJECT / file).read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==([^ ;\\]+)", text, re.MULTILINE))
