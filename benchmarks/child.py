"""Run one measurement in this process: ``python -m benchmarks.child MODULE ARGUMENTS RESULT_FILE``."""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would include the parent's memory between fork and exec.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(module: str, arguments: str, result: str) -> None:
    """Call the module's ``measure``, and write its result."""
    found = importlib.import_module(f"benchmarks.{module}").measure(**json.loads(arguments))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
