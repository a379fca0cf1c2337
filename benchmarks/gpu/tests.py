"""The tests that a GPU changes, in several processes at once: most of their time is Triton compiling."""

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
    """What one process each runs: the files of every operation, those of all, and the whole library on a GPU."""
    folder = ROOT / "tests" / "hat_kernels"
    found = [[str(path)] for path in sorted(folder.glob("*/test_*.py"))]  # one each: they compile at the same time
    files = [str(path) for path in sorted(folder.glob("test_*.py")) if path.name != "test_compiled.py"]
    suite = ROOT / "tests" / "hat"
    whole = [str(suite / name) for name in ("test_on_triton.py", "test_gpu.py", "data/test_gpu.py")]
    return [*found, files, *([path] for path in whole)]


def run(seconds: float, chosen: list[list[str]] | None = None) -> list[dict[str, Any]]:
    """One row a process, all started at once; one that is not done after `seconds` is ended."""
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
        status = "passed" if process.returncode in (0, 5) else "failed"  # 5: nothing to run
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        status = "out of time"
    name = " ".join(Path(argument).name if os.sep in argument else argument for argument in arguments)
    last = (output.strip().splitlines() or [""])[-1]
    row = {"tests": name, "status": status, **{what: int(count) for count, what in SUMMARY.findall(last)}}
    return row if status == "passed" else {**row, "output": output[-6000:]}
