"""The spec of a run: all options as plain numbers and names. A spec can build the stream and the model of the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import hat.data
from hat.arguments import check_choice, check_number, check_switch, check_whole
from hat.cli.network import NETWORKS, NetworkSpec, check_sizes
from hat.data import Stream
from hat.data.limits import MAX_GIB
from hat.data.loading import is_name
from hat.life.model import HATModel
from hat.training import REFERENCES, TrainConfig
from hat.training.growth import check_growth
from hat.units.state import GateConfig

__all__ = ["NETWORKS", "STREAMS", "NetworkSpec", "RunSpec", "StreamSpec"]

STREAMS = ("permuted", "split", "mixture")


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """The options of a stream of tasks.

    Attributes:
        stream: how the tasks are made: the pixels permuted, the classes split, or one dataset after another (mixture).
        datasets: names, or paths of your own data (idx folder, CIFAR batches, npz, image folder or archive). Only a
            mixture takes several.
        tasks: the number of tasks; by default 5 if permuted, otherwise all.
        classes_per_task: for a split; by default 2.
        validation: the share of the training images for the validation part, between 0 and 1.
        seed: of permutations, splits and the validation part.
        root: the data folder; by default $HAT_DATA, else the user's cache, where downloads go.
        limit: use at most this many training images of each class; by default all.
        size: height and width to resize every image to; by default the size of the images.
        max_gib: the most that a dataset may take in memory, unpacked and as normalised images, in GiB; it protects from
            files that unpack to far more than their size.

    Raises:
        ValueError: an option is out of range, or this stream does not have it.
    """

    stream: str = "permuted"
    datasets: tuple[str, ...] = ("digits",)
    tasks: int | None = None
    classes_per_task: int | None = None
    validation: float = 0.15
    seed: int = 0
    root: str | None = None
    limit: int | None = None
    size: tuple[int, int] | None = None
    max_gib: float = MAX_GIB

    def __post_init__(self) -> None:
        check_choice("stream", self.stream, STREAMS)
        _check_texts("dataset", self.datasets)
        if self.stream != "mixture" and len(self.datasets) != 1:
            raise ValueError(f"dataset: expected one for a {self.stream} stream, got {', '.join(self.datasets)}")
        for name in ("tasks", "classes_per_task", "limit"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least=1)
        if self.stream == "mixture" and self.tasks is not None and self.tasks > len(self.datasets):
            raise ValueError(f"tasks: expected at most {len(self.datasets)}, one a dataset, got {self.tasks}")
        if self.stream != "split" and self.classes_per_task is not None:
            got = f"{self.classes_per_task} for a {self.stream} stream"
            raise ValueError(f"classes_per_task: expected for a split stream only, got {got}")
        check_number("validation", self.validation, above=0, below=1)
        check_whole("seed", self.seed)
        if self.root is not None:
            _check_texts("root", (self.root,))
        check_sizes("size", self.size)
        if self.size is not None and len(self.size) != 2:
            raise ValueError(f"size: expected height and width, got {self.size}")
        check_number("max_gib", self.max_gib, above=0)

    def absolute(self) -> StreamSpec:
        """The same options with absolute paths, so that the run can be continued from any folder."""
        paths = tuple(text if is_name(text) else _absolute(text) for text in self.datasets)
        return replace(self, datasets=paths, root=None if self.root is None else _absolute(self.root))

    def build(self) -> Stream:
        """Load the data.

        Raises:
            ValueError: an option is out of range for this data.
            FileNotFoundError: the data is missing.
        """
        names = ("validation", "seed", "root", "limit", "size", "max_gib")
        common: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.stream == "mixture":
            return hat.data.mixture(list(self.datasets[: self.tasks]), **common)
        if self.stream == "permuted":
            return hat.data.permuted(self.datasets[0], tasks=5 if self.tasks is None else self.tasks, **common)
        classes = 2 if self.classes_per_task is None else self.classes_per_task
        return hat.data.split(self.datasets[0], classes_per_task=classes, tasks=self.tasks, **common)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """All options of a run; the content of `config.json`.

    Attributes:
        stream: the tasks.
        network: the network.
        gates: how the gates learn.
        training: the recipe.
        references: also train without HAT: each task alone, all jointly, or one after another (which forgets).
        verify: after every task, check that all learned tasks still answer the same and that no locked weight has
            moved; stop if one has.
        grow: "auto" adds free units to a layer before a task, if the forecast says that the task would not fit.

    Raises:
        ValueError: an option is out of range.
    """

    stream: StreamSpec
    network: NetworkSpec
    gates: GateConfig
    training: TrainConfig
    references: tuple[str, ...] = ()
    verify: bool = False
    grow: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.references, tuple):
            raise ValueError(f"references: expected a list, got {self.references!r}")
        for kind in self.references:
            check_choice("reference", kind, REFERENCES)
        check_switch("verify", self.verify)
        check_growth(self.grow)

    def model(self, input_shape: tuple[int, ...], kind: type[HATModel] = HATModel) -> HATModel:
        """A fresh model of the class `kind`. The same seed gives the same model."""
        torch.manual_seed(self.training.seed)
        return kind(self.network.build(input_shape), config=self.gates)

    def to_dict(self) -> dict[str, Any]:
        """The spec as dicts, tuples, numbers, strings and None."""
        return asdict(self)


def _check_texts(name: str, values: object) -> None:
    if not (isinstance(values, tuple) and values and all(isinstance(value, str) and value for value in values)):
        raise ValueError(f"{name}: expected at least one name or path, got {values!r}")


def _absolute(text: str) -> str:
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() else text
