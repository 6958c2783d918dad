from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def uv() -> Callable[..., None]:
    """Run uv with the cache of this project."""
    program = shutil.which("uv") or PROJECT / ".tools" / "bin" / "uv"

    def run(*arguments: str | Path, stdin: str = "") -> None:
        environment = {"UV_CACHE_DIR": str(PROJECT / ".cache" / "uv"), **os.environ}
        done = subprocess.run(
            [program, *arguments],
            env={**environment, "UV_PYTHON_DOWNLOADS": "never"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run
