"""`pytest benchmarks`: single operations, grouped so that plain, textbook and ours stand together."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.operations import OPERATIONS


@pytest.mark.parametrize("variant", ["plain", "textbook", "ours"])
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_operation(benchmark: Any, operation: str, variant: str) -> None:
    benchmark.group = operation
    benchmark.pedantic(OPERATIONS[operation]()[variant], rounds=30, warmup_rounds=3)
