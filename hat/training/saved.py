"""A model and what else a checkpoint holds, read back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hat.life.model import HATModel
from hat.training.identity import check_same
from hat.training.rundir import RunDir


def restore(folder: RunDir, model: HATModel, now: dict[str, Any]) -> dict[str, Any]:
    """Load the model of a run and return the rest of its checkpoint.

    Args:
        folder: of the run.
        model: takes the state.
        now: the present `identity`.

    Raises:
        ValueError: the checkpoint is missing, broken, or of another model, stream or config.
    """
    saved = folder.load()
    check_same(saved["identity"], now)
    with reading(folder.checkpoint):
        model.load_state_dict(saved["model"])
    if model.tasks != len(saved["history"]["names"]) or model.learning != (saved["fit"] is not None):
        raise ValueError(
            f"{folder.checkpoint}: expected as many tasks in the model as in the history, got {model.tasks}"
        )
    return saved


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Whatever goes wrong in the block with what a file holds becomes a ValueError of one line that names it."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()[:2]]
        got = f"{type(error).__name__}: {' '.join(lines)}"[:300]
        raise ValueError(f"{file}: expected the state of this run, got {got}") from error
