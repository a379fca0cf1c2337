"""`pytest benchmarks`: time single operations. The variants of an operation are shown as one group."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.operations import OPERATIONS
from benchmarks.variants import COMPILED, OURS, PLAIN, TEXTBOOK


@pytest.mark.parametrize("variant", [PLAIN, TEXTBOOK, OURS, COMPILED])
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_operation(benchmark: Any, operation: str, variant: str) -> None:
    benchmark.group = operation
    calls = OPERATIONS[operation]()
    if variant not in calls:
        pytest.skip(f"{operation} has no variant {variant}")
    benchmark.pedantic(calls[variant], rounds=30, warmup_rounds=3)
