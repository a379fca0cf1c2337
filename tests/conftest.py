"""What every test starts from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """A known seed, and no floating-point mode left over from another test."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
