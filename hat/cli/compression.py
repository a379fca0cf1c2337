"""Compression runs: each dataset learned alone, with attention and without, and the figures of all in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hat import checkpoint, plots
from hat.cli.spec import RunSpec
from hat.cli.specfile import read_spec
from hat.data import Stream
from hat.life.model import HATModel
from hat.reports.kept import weights_kept
from hat.text import aligned
from hat.training import PlainModel, Trainer
from hat.training.form import check_form
from hat.training.history import History
from hat.training.rundir import RunDir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "compression.json"
_WITHOUT_FORM = {"accuracy": (float, int), "epochs": [(float, int)]}

Figures = dict[str, dict[str, Any]]
"""Of every dataset by name: `accuracy` on its test part; `weights`, how many there are; `kept`, how many of them the
task computes with; `epochs`, a list of `val_accuracy` and one of `kept`, the share; `seconds`; and `without`, the
`accuracy` and validation accuracies in `epochs` without attention, None before that was trained."""


@dataclass(frozen=True)
class Part:
    """One dataset: a run of its own, which `hat evaluate` and `hat report` take too."""

    name: str
    spec: RunSpec
    stream: Stream
    folder: RunDir

    def has_begun(self) -> bool:
        """The folder has a checkpoint of exactly this run."""
        if not (self.folder.checkpoint.exists() and self.folder.config.exists()):
            return False
        try:
            return read_spec(self.folder, data=self.spec.stream.root, device=self.spec.training.device) == self.spec
        except ValueError:  # of another version, or broken: learned anew
            return False


class Compression:
    """Learns one dataset after another, each by a fresh network.

    Args:
        spec: of all of them.
        folder: gets the figures; every dataset has a folder in it.
        shown: print a line an epoch.

    Attributes:
        figures: of the datasets that are learned.
        saved: an epoch is finished.
    """

    def __init__(self, spec: RunSpec, folder: RunDir, *, shown: bool) -> None:
        self.spec, self.folder, self.shown = spec, folder, shown
        self.figures: Figures = {}
        self.saved = False

    def learn(self, part: Part, *, resume: bool) -> None:
        """Learn a dataset; of an interrupted run, what is left of it."""
        resume = resume and part.has_begun()
        model = part.spec.model(part.stream.input_shape)
        trainer = Trainer(
            model,
            part.stream,
            part.spec.training,
            run_dir=part.folder.path,
            description=part.spec.to_dict(),
            progress=False,
            after_epoch=lambda model, row: self._after_epoch(part.name, model, row),
        )
        result = trainer.run(resume=resume, overwrite=not resume)
        without = self.figures.get(part.name, {}).get("without")
        self._keep(part.name, {**_figures(model, result.history), "seconds": result.seconds, "without": without})
        if without is None:
            if self.shown:
                print(f"{part.name}  without HAT", flush=True)
            plain = part.spec.model(part.stream.input_shape, PlainModel)
            history = Trainer(plain, part.stream, part.spec.training, progress=False).run().history
            self._keep(part.name, {**self.figures[part.name], "without": _accuracies(history)})

    def read_figures(self) -> None:
        """Take from an interrupted run of the same options what it found out without attention.

        Raises:
            ValueError: the file is broken.
        """
        file = self.folder.path / FIGURES
        if not file.exists():
            return
        try:
            found = json.loads(file.read_text())
        except (ValueError, RecursionError):
            raise ValueError(f"{file}: expected JSON, found something else") from None
        check_form(found, {"config": dict, "datasets": dict}, str(file))
        if found["config"] != self._config():
            return
        for name, figures in found["datasets"].items():
            check_form(figures, {"without": (dict, type(None))}, f"{file}: {name}")
            if figures["without"] is not None:
                check_form(figures["without"], _WITHOUT_FORM, f"{file}: {name}: without")
        self.figures = found["datasets"]

    def _after_epoch(self, name: str, model: HATModel, row: dict[str, Any]) -> dict[str, float]:
        if not self.saved:
            self.folder.write_config(self.spec.to_dict())
            self.saved = True
        share = weights_kept(model).share
        if self.shown:
            validation = f"validation {row['val_accuracy']:7.2%}"
            print(f"{name}  epoch {row['epoch']:3d}  {validation}  weights kept {share:7.2%}", flush=True)
        return {"weights_kept": share}

    def _keep(self, name: str, figures: dict[str, Any]) -> None:
        self.figures = {**self.figures, name: figures}
        text = json.dumps({"config": self._config(), "datasets": self.figures}, indent=1)
        with checkpoint.replacing(self.folder.path / FIGURES) as file:
            file.write(f"{text}\n".encode())

    def _config(self) -> Any:
        """As JSON gives it back."""
        return json.loads(json.dumps(self.spec.to_dict()))


def render(figures: Figures) -> str:
    """A table, one row a dataset."""
    head = ("dataset", "epochs", "accuracy", "without HAT", "weights", "kept")
    rows = [
        (
            name,
            str(len(row["epochs"]["kept"])),
            f"{row['accuracy']:.2%}",
            f"{row['without']['accuracy']:.2%}",
            f"{row['weights']:,}",
            f"{row['kept'] / row['weights']:.2%}",
        )
        for name, row in figures.items()
    ]
    table = aligned([head, *rows], numbers=range(1, 6))
    return "\n".join([table[0], "-" * max(map(len, table)), *table[1:]])


def picture(figures: Figures) -> Figure:
    """Accuracy and weights kept over the epochs of every dataset."""
    rows = figures.values()
    return plots.compression(
        [row["epochs"]["val_accuracy"] for row in rows],
        [row["epochs"]["kept"] for row in rows],
        list(figures),
        without=[row["without"]["epochs"] for row in rows],
    )


def _figures(model: HATModel, history: History) -> dict[str, Any]:
    found = weights_kept(model, task=0)
    accuracies = _accuracies(history)
    epochs = {"val_accuracy": accuracies["epochs"], "kept": [row["weights_kept"] for row in history.epochs]}
    return {"accuracy": accuracies["accuracy"], "weights": found.total, "kept": found.kept, "epochs": epochs}


def _accuracies(history: History) -> dict[str, Any]:
    return {"accuracy": history.accuracy[-1][0], "epochs": [row["val_accuracy"] for row in history.epochs]}
