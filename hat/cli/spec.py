"""A run as plain numbers and names, and what is built from them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import torch
from torch import nn

import hat.data
from hat import models
from hat.data import Stream
from hat.model import HATModel
from hat.state import GateConfig
from hat.training import TrainConfig

STREAMS = ("permuted", "split", "mixture")
NETWORKS = ("mlp", "alexnet")


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Which tasks.

    Attributes:
        stream: `"permuted"`, `"split"` or `"mixture"`.
        datasets: names or paths; one, but for a mixture.
        tasks: how many; None for as many as there are.
        classes_per_task: of a split.
        validation: share of the training images kept for validation.
        seed: of permutations, splits and the validation part.
        root: the data folder; None for the usual places.
        limit: at most this many training images a class, or None.
    """

    stream: str = "permuted"
    datasets: tuple[str, ...] = ("digits",)
    tasks: int | None = None
    classes_per_task: int = 2
    validation: float = 0.15
    seed: int = 0
    root: str | None = None
    limit: int | None = None

    def build(self) -> Stream:
        """Load the data.

        Raises:
            ValueError: more than one dataset where one is meant, or an option out of range.
        """
        common: dict[str, Any] = {
            "validation": self.validation,
            "seed": self.seed,
            "root": self.root,
            "limit": self.limit,
        }
        if self.stream == "mixture":
            stream = hat.data.mixture(list(self.datasets), **common)
            return stream if self.tasks is None else stream[: self.tasks]
        if len(self.datasets) != 1:
            raise ValueError(f"dataset: expected one for a {self.stream} stream, got {', '.join(self.datasets)}")
        if self.stream == "permuted":
            return hat.data.permuted(self.datasets[0], tasks=5 if self.tasks is None else self.tasks, **common)
        return hat.data.split(self.datasets[0], classes_per_task=self.classes_per_task, tasks=self.tasks, **common)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Which network.

    Attributes:
        network: `"mlp"` or `"alexnet"`.
        hidden: widths of the linear layers; None for the paper's.
        dropout: overrides the paper's dropout of inputs and hidden units by one number; None keeps it.
    """

    network: str = "mlp"
    hidden: tuple[int, ...] | None = None
    dropout: float | None = None

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """The body for inputs (C, H, W)."""
        options: dict[str, Any] = {} if self.hidden is None else {"hidden": self.hidden}
        if self.network == "mlp":
            if self.dropout is not None:
                options |= {"input_dropout": self.dropout, "dropout": self.dropout}
            return models.mlp(math.prod(input_shape), **options)
        linear = 2 if self.hidden is None else len(self.hidden)
        paper = (0.2, 0.2, 0.5) + (0.5,) * linear
        dropout = paper if self.dropout is None else (self.dropout,) * len(paper)
        return models.alexnet(input_shape, dropout=dropout, **options)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """All that defines a run; what `config.json` holds."""

    stream: StreamSpec
    network: NetworkSpec
    gates: GateConfig
    training: TrainConfig

    def model(self, input_shape: tuple[int, ...], kind: type[HATModel] = HATModel) -> HATModel:
        """A fresh model of a kind, the same for the same seed."""
        torch.manual_seed(self.training.seed)
        return kind(self.network.build(input_shape), config=self.gates)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> RunSpec:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a part or a field is missing, unknown or out of range.
        """
        parts = {"stream": StreamSpec, "network": NetworkSpec, "gates": GateConfig, "training": TrainConfig}
        if set(config) != set(parts):
            raise ValueError(f"config: expected the parts {sorted(parts)}, got {sorted(config)}")
        return cls(**{name: _read(kind, config[name], name) for name, kind in parts.items()})


_Part = TypeVar("_Part")


def _read(kind: type[_Part], values: dict[str, Any], name: str) -> _Part:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = set(values) - known
    if unknown:
        raise ValueError(f"config.{name}: expected fields of {sorted(known)}, got {sorted(unknown)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
