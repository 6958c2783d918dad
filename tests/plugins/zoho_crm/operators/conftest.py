"""Airflow's surroundings for the operators."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _surroundings(variables: dict[str, str]) -> None:
    """Keep Airflow's Variables in memory for every operator."""
