"""A run read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hat.cli.spec import RunSpec
from hat.cli.specfile import read_spec
from hat.data import Stream
from hat.life.model import HATModel
from hat.training.history import History
from hat.training.identity import identity
from hat.training.rundir import RunDir
from hat.training.saved import restore


@dataclass(frozen=True)
class StoredRun:
    """A run as its last checkpoint has it."""

    folder: RunDir
    spec: RunSpec
    history: History
    stream: Stream
    model: HATModel


def open_run(path: Path, *, data: str | None = None, device: str | None = None) -> StoredRun:
    """Read config and checkpoint, load the data, rebuild the model.

    Args:
        path: the folder of the run.
        data: where the data is now; None for where it was.
        device: to compute on; None for that of the run.

    Raises:
        ValueError: the folder is not that of a run, its files are broken or of another run, or the data has changed.
        FileNotFoundError: the data is not there.
    """
    folder = RunDir.existing(path)
    spec = read_spec(folder, data=data, device=device)
    folder.load()  # what is wrong with it is known before the data is loaded
    stream = spec.stream.build()
    model = spec.model(stream.input_shape)
    saved = restore(folder, model, identity(model, stream, spec.training, grow=spec.grow))
    model.to(spec.training.torch_device())
    return StoredRun(folder, spec, History(**saved["history"]), stream, model)
