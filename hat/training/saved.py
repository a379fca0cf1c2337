"""Read a run back from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hat.life.model import HATModel
from hat.training.identity import check_same
from hat.training.rundir import RunDir


def restore(folder: RunDir, model: HATModel, present: dict[str, Any]) -> dict[str, Any]:
    """Load the state of a model from the checkpoint of a run.

    Args:
        folder: of the run.
        model: gets the state.
        present: the `identity` of the present run.

    Returns:
        The content of the checkpoint.

    Raises:
        ValueError: the checkpoint is missing or damaged, or belongs to another model, stream or config.
    """
    saved = folder.load()
    check_same(saved["identity"], present)
    with reading(folder.checkpoint):
        model.load_state_dict(saved["model"])
    if model.tasks != len(saved["history"]["names"]) or model.learning != (saved["fit"] is not None):
        raise ValueError(
            f"{folder.checkpoint}: expected as many tasks in the model as in the history, got {model.tasks}"
        )
    return saved


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn every error in the block into a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()[:2]]
        got = f"{type(error).__name__}: {' '.join(lines)}"[:300]
        raise ValueError(f"{file}: expected the state of this run, got {got}") from error
