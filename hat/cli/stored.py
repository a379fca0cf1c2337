"""Read a run back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hat.cli.checks import existing_run
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
    """A run in the state of its last checkpoint.

    Attributes:
        folder: of the run.
        spec: all options of the run.
        history: every epoch, the accuracy matrix, capacity and drift.
        stream: the tasks, with their data.
        model: with the state of the checkpoint.
    """

    folder: RunDir
    spec: RunSpec
    history: History
    stream: Stream
    model: HATModel

    def finished_tasks(self, tasks: list[int] | None) -> list[int]:
        """The tasks that the user named by `--task`; None names all that are remembered.

        Raises:
            ValueError: no task is finished, a task is not finished or not there, or a task is named twice.
        """
        if not self.model.remembered:
            raise ValueError(f"{self.folder.path}: expected a run with a finished task, got none yet")
        if tasks is None:
            return list(self.model.remembered)
        for task in tasks:
            self.model.check_task(task, finished=True, argument="--task")
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"--task: expected every task once, got {' '.join(map(str, tasks))}")
        return tasks


def open_run(path: Path, *, data: str | None = None, device: str | None = None) -> StoredRun:
    """Read config and checkpoint, load the data, rebuild the model.

    Args:
        path: the folder of the run.
        data: the data folder; None takes that of the run.
        device: the device; None takes that of the run.

    Raises:
        ValueError: the folder holds no run, a file is damaged or belongs to another run, or the data has changed.
        FileNotFoundError: the data is missing.
    """
    folder = existing_run(path)
    spec = read_spec(folder, data=data, device=device)
    saved = folder.load()  # so that a damaged checkpoint is found before the data is loaded, which may take long
    stream = spec.stream.build()
    spec.check_size(stream.input_shape, saved["model"], str(folder.checkpoint))
    model = spec.model(stream.input_shape)
    saved = restore(folder, model, identity(model, stream, spec.training, grow=spec.grow))
    model.to(spec.training.torch_device())
    return StoredRun(folder, spec, History(**saved["history"]), stream, model)
