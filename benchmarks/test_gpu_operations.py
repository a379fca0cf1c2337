"""`pytest benchmarks` on a GPU: time every operation. Ours and its rivals are shown as one group.

For a quick look only, because the times include the cost of launches. Quote the numbers of `make gpu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import torch

from benchmarks.gpu.case import Case
from benchmarks.gpu.ceilings import DTYPES
from benchmarks.gpu.device import Device
from benchmarks.gpu.operations import OPERATIONS
from benchmarks.gpu.updates import embeddings, updates

DEVICE = Device("cuda" if torch.cuda.is_available() else "cpu")


def cases() -> Iterator[Any]:
    """One parameter per case and variant. A case makes its tensors only when it runs."""
    for make in (*OPERATIONS, updates, embeddings):
        for size in DEVICE.sizes:
            for dtype in DTYPES:
                for case in make(DEVICE, size, dtype):
                    group = f"{case.operation}, {case.shape} {case.dtype}, {100 * case.locked:.0f} % locked"
                    for variant in case.variants:
                        yield pytest.param(group, case, variant, id=f"{group}-{variant}")


@pytest.mark.parametrize(("group", "case", "variant"), list(cases()))
def test_operation(benchmark: Any, group: str, case: Case, variant: str) -> None:
    benchmark.group = group
    calls = cycle(case.variants[variant]())

    def run() -> None:
        next(calls)()
        DEVICE.synchronize()

    benchmark.pedantic(run, rounds=20, warmup_rounds=3)
