"""What every test starts from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Before anything imports hat_kernels or Triton: both ask at import whether kernels are compiled or interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hat_kernels

settings.register_profile("house", deadline=None)  # no test asserts a duration
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="auto", help="of hat_kernels in every test (auto, reference or triton)")


def pytest_configure(config: pytest.Config) -> None:
    """Not in pyproject.toml: pytest would import `hat` for these names before the line above has run."""
    for warning in ("CapacityWarning", "UnlockedWarning"):
        config.addinivalue_line("filterwarnings", f"error::hat.{warning}")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file `test_triton*.py` runs kernels."""
    for item in items:
        if item.path.name.startswith("test_triton"):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(autouse=True)
def same_start(request: pytest.FixtureRequest) -> Iterator[None]:
    """A known seed, no floating-point mode left over from another test, and the backend that was asked for."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)
    with hat_kernels.backend(request.config.getoption("--backend")):
        yield
    torch.set_flush_denormal(False)
