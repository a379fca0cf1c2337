"""Read a run back from its checkpoint."""

from __future__ import annotations

import re
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
    try:
        check_same(saved["identity"], present)
    except ValueError as error:
        raise ValueError(f"{folder.checkpoint}: {error}") from None
    with reading(folder.checkpoint):
        model.load_state_dict(saved["model"])
    if model.tasks != len(saved["history"]["names"]) or model.learning != (saved["fit"] is not None):
        raise ValueError(
            f"{folder.checkpoint}: expected as many tasks in the model as in the history, got {model.tasks}"
        )
    return saved


_OF_TORCH = re.compile(r"^Error\(s\) in loading state_dict for \w+:")  # the line before those that name tensors


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn every error in the block into a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:
        text = _OF_TORCH.sub("", str(error)).strip() if isinstance(error, (ValueError, RuntimeError)) else ""
        got = " ".join(line.strip() for line in text.splitlines()[:2])[:300] or "values that do not fit"
        raise ValueError(f"{file}: expected the state of this run, got: {got}") from error
