"""A sample of the fuzzer, and the fuzzer itself: it knows every public callable, and finds what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import calls
from tests.fuzz.callables import MODULES, Target, find
from tests.fuzz.play import outcome, play
from tests.fuzz.recipes import valid
from tests.fuzz.scene import Scene

pytestmark = pytest.mark.usefixtures("one_thread")
TARGETS = find()
_SLOW = ("hat.models.resnet", "hat.models.vit", "hat.Report.plots", "hat.Report.save")  # called by tests of their own


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_public_callable_is_called_as_it_expects() -> None:
    """A new public name needs a value for each of its arguments in `tests/fuzz/recipes.py`."""
    wrong = []
    for target in TARGETS.values():
        try:
            _ = valid(target, Scene()) if target.name.startswith(_SLOW) else outcome(target)
        except Exception as error:
            wrong.append(f"{target.name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", MODULES)
def test_wrong_arguments_are_refused_in_a_line_or_accepted(module: str) -> None:
    own = [target for target in TARGETS.values() if _module(target) == module]
    findings = [play(target, changes) for target, changes in calls(0, len(own) * 2, module) if target in own]
    assert not any(findings), "\n".join(str(finding) for finding in findings if finding)


def _module(target: Target) -> str:
    return max((module for module in MODULES if target.name.startswith(f"{module}.")), key=len)
