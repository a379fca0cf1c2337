"""A run read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hat.cli.spec import RunSpec
from hat.data import Stream
from hat.model import HATModel
from hat.training.history import History
from hat.training.rundir import RunDir


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

    Raises:
        ValueError: the folder is not that of a run, its files are broken, or the data is not there.
    """
    folder = RunDir.existing(path)
    spec = RunSpec.from_dict(folder.read_config())
    if data is not None:
        spec = replace(spec, stream=replace(spec.stream, root=data))
    if device is not None:
        spec = replace(spec, training=replace(spec.training, device=device))
    saved = folder.load()
    stream = spec.stream.build()
    model = spec.model(stream.input_shape)
    model.load_state_dict(saved["model"])
    model.to(spec.training.torch_device())
    return StoredRun(folder, spec, History(**saved["history"]), stream, model)
