from __future__ import annotations

import subprocess
import sys

import pytest

import zoho_crm


@pytest.mark.parametrize("name", zoho_crm.__all__)
def test_exports_every_public_name(name: str) -> None:
    assert getattr(zoho_crm, name).__name__ == name


def test_importing_the_package_loads_no_airflow_and_no_http_client() -> None:
    code = (
        "import sys; from zoho_crm import Link; print({'airflow', 'aiohttp', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Delink'"):
        zoho_crm.Delink  # noqa: B018
