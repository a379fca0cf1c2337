"""Compression runs: learn each dataset alone, with attention and without, and keep all figures in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hat import plots
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

FIGURES, PICTURE = "compression.json", "compression.png"
_WITHOUT_FORM = {"accuracy": (float, int), "epochs": [(float, int)]}

Figures = dict[str, dict[str, Any]]
"""The figures of every dataset by name.

- `accuracy`: on the test part.
- `weights`: the number of weights.
- `kept`: the number of weights that the task computes with.
- `epochs`: two lists with one number an epoch, `val_accuracy` and `kept`, the share of kept weights.
- `seconds`: the time of the run.
- `without`: the results without attention, None before that run: `accuracy` on the test part, and `epochs`, the
  validation accuracies.
"""


@dataclass(frozen=True)
class DatasetRun:
    """The run of one dataset. `hat evaluate` and `hat report` accept its folder.

    Attributes:
        name: of the dataset.
        spec: all that defines the run.
        stream: one task with all classes of the dataset.
        folder: of the run.
    """

    name: str
    spec: RunSpec
    stream: Stream
    folder: RunDir

    def has_begun(self) -> bool:
        """Whether the folder has a checkpoint of exactly this run."""
        if not (self.folder.checkpoint.exists() and self.folder.config.exists()):
            return False
        try:
            return read_spec(self.folder, data=self.spec.stream.root, device=self.spec.training.device) == self.spec
        except ValueError:  # the config is damaged or of another version: the dataset is learned again
            return False


class Compression:
    """Learns one dataset after another, each by a fresh network.

    Args:
        spec: defines the runs of all datasets.
        folder: for the figures, and for one folder a dataset.
        shown: print a line an epoch.

    Attributes:
        figures: of the datasets that are learned.
        saved: whether an epoch is finished and saved.
    """

    def __init__(self, spec: RunSpec, folder: RunDir, *, shown: bool) -> None:
        self.spec, self.folder, self.shown = spec, folder, shown
        self.figures: Figures = {}
        self.saved = False

    def learn(self, run: DatasetRun, *, resume: bool) -> None:
        """Learn a dataset, or continue if its run was interrupted.

        Args:
            run: the run of the dataset.
            resume: continue the run if it has begun; otherwise replace it.
        """
        resume = resume and run.has_begun()
        model = run.spec.model(run.stream.input_shape)
        trainer = Trainer(
            model,
            run.stream,
            run.spec.training,
            run_dir=run.folder,
            description=run.spec.to_dict(),
            progress=False,
            after_epoch=lambda model, row: self._after_epoch(run.name, model, row),
        )
        result = trainer.run(resume=resume, overwrite=not resume)
        without = self.figures.get(run.name, {}).get("without")
        self._keep(run.name, {**_figures(model, result.history), "seconds": result.seconds, "without": without})
        if without is None:
            if self.shown:
                print(f"{run.name}  without HAT", flush=True)
            plain = run.spec.model(run.stream.input_shape, PlainModel)
            history = Trainer(plain, run.stream, run.spec.training, progress=False).run().history
            self._keep(run.name, {**self.figures[run.name], "without": _accuracies(history)})

    def read_figures(self) -> None:
        """Read the figures of an interrupted run. They count only if the run had the same options.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.folder.path / FIGURES
        if not file.exists():
            return
        try:
            content = json.loads(file.read_text())
        except (ValueError, RecursionError):
            raise ValueError(f"{file}: expected JSON, got other text") from None
        check_form(content, {"config": dict, "datasets": dict}, str(file))
        if content["config"] != self._config():
            return
        for name, figures in content["datasets"].items():
            check_form(figures, {"without": (dict, type(None))}, f"{file}: {name}")
            if figures["without"] is not None:
                check_form(figures["without"], _WITHOUT_FORM, f"{file}: {name}: without")
        self.figures = content["datasets"]

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
        self.folder.write(FIGURES, f"{text}\n")

    def _config(self) -> Any:
        """The spec as JSON reads it back: tuples are lists."""
        return json.loads(json.dumps(self.spec.to_dict()))


def render(figures: Figures) -> str:
    """The figures as a table, one row a dataset."""
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
    """A picture of accuracy and kept weights over the epochs of every dataset, with the numbers of `render`."""
    rows = figures.values()
    return plots.compression(
        [row["epochs"]["val_accuracy"] for row in rows],
        [row["epochs"]["kept"] for row in rows],
        list(figures),
        without=[row["without"]["epochs"] for row in rows],
        final=[
            {
                "kept": row["kept"] / row["weights"],
                "accuracy": row["accuracy"],
                "without": row["without"]["accuracy"],
            }
            for row in rows
        ],
    )


def _figures(model: HATModel, history: History) -> dict[str, Any]:
    weights = weights_kept(model, task=0)
    accuracies = _accuracies(history)
    epochs = {"val_accuracy": accuracies["epochs"], "kept": [row["weights_kept"] for row in history.epochs]}
    return {"accuracy": accuracies["accuracy"], "weights": weights.total, "kept": weights.kept, "epochs": epochs}


def _accuracies(history: History) -> dict[str, Any]:
    return {"accuracy": history.accuracy[-1][0], "epochs": [row["val_accuracy"] for row in history.epochs]}
