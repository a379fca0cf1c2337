"""The device that is measured: a GPU, or the CPU in a dry run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

import hat_kernels
from benchmarks.facts import commit
from hat_kernels.gated_linear.choice import file_name as file_name

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Device:
    """The device, and the sizes of the tensors on it.

    Attributes:
        kind: `"cuda"` for a GPU (ROCm too). `"cpu"` for a dry run with interpreted kernels, tiny tensors and a wall
            clock.
    """

    kind: str

    @property
    def dry(self) -> bool:
        """This is a dry run."""
        return self.kind == "cpu"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the main tensor in bytes. The largest size comes first, and is larger than any L2 cache."""
        return (2048, 1024) if self.dry else (256 * MEBIBYTE, 64 * MEBIBYTE, 16 * MEBIBYTE)

    @property
    def rotation(self) -> int:
        """The bytes of all sets of inputs together. Calls take turns with the sets, so that no cache holds an input."""
        return 1 if self.dry else 512 * MEBIBYTE

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Use the backend that a user of a GPU gets. In a dry run, use the kernels: `auto` would take the reference."""
        with hat_kernels.backend("triton" if self.dry else "auto"):
            yield

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if not self.dry:
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """The facts for every row that somebody needs to repeat the measurement."""
        return {
            "gpu": "dry run on a CPU" if self.dry else torch.cuda.get_device_name(),
            "driver": "none" if self.dry else _driver(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
            "commit": os.environ.get("HAT_COMMIT") or commit(),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _driver() -> str:
    if torch.version.hip:
        return f"hip {torch.version.hip}"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        query = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return query.stdout.split("\n")[0].strip()
