"""Run the tests that behave differently on a GPU.

Several processes run at the same time, because most of the time goes into compiling Triton kernels.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.facts import ROOT

SUMMARY = re.compile(r"(\d+) (passed|failed|error|errors|skipped|deselected)\b")


def groups() -> list[list[str]]:
    """The test files of every process.

    Every test file of an operation has its own process, and so has every test file of the library on a GPU. The other
    test files of hat_kernels share one process.
    """
    folder = ROOT / "tests" / "hat_kernels"
    operations = [[str(path)] for path in sorted(folder.glob("*/test_*.py"))]
    shared = [str(path) for path in sorted(folder.glob("test_*.py")) if path.name != "test_compiled.py"]
    suite = ROOT / "tests" / "hat"
    library = [str(suite / name) for name in ("test_on_triton.py", "test_gpu.py", "data/test_gpu.py")]
    return [*operations, shared, *([path] for path in library)]


def run(seconds: float, chosen: list[list[str]] | None = None) -> list[dict[str, Any]]:
    """Run the tests, with all processes at the same time. After `seconds`, processes that still run are ended.

    Args:
        seconds: the time.
        chosen: the arguments of pytest for every process; by default `groups()`.

    Returns:
        One row per process.
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    running = []
    for arguments in chosen or groups():
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--show-capture=no", "--tb=short", *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append((arguments, process))
    return [_row(arguments, process, started + seconds) for arguments, process in running]


def _row(arguments: list[str], process: subprocess.Popen[str], deadline: float) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        status = "passed" if process.returncode in (0, 5) else "failed"  # 5: no test was selected
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        status = "out of time"
    name = " ".join(Path(argument).name if os.sep in argument else argument for argument in arguments)
    last = (output.strip().splitlines() or [""])[-1]
    row = {"tests": name, "status": status, **{outcome: int(count) for count, outcome in SUMMARY.findall(last)}}
    return row if status == "passed" else {**row, "output": output[-6000:]}
