from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import PROJECT

pytestmark = pytest.mark.systems


def test_hadolint_accepts_the_dockerfile():
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs the dependency group `systems`: make test-systems")
    done = subprocess.run(
        [program, str(PROJECT / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
