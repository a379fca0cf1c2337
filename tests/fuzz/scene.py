"""Small objects that valid calls take: models in every state, an optimizer, tasks, files."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

import hat

STATES = ("untrained", "learning", "finished", "forgotten")


class Net(nn.Module):
    """Two gated layers, wired by hand."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first = hat.HATLinear(4, width)
        self.norm = hat.HATLayerNorm(width, gate=self.first.gate)
        self.second = hat.HATLinear(width, 6, inputs=self.first.gate)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.second(self.norm(self.first(x)))
        return answer


def model(state: str, *, width: int = 5) -> hat.HATModel:
    """A model that has learned nothing, learns its third task, has finished two tasks, or has forgotten the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hat.HATModel(Net(width))
        for classes in (2, 3) if state != "untrained" else ():
            made.begin_task(classes)
            made.end_task()
        if state == "learning":
            made.begin_task(2)
        if state == "forgotten":
            hat.forget(made, 0)
    return made


class Scene:
    """What the arguments of one call share. Objects are made when they are asked for."""

    @cached_property
    def untrained(self) -> hat.HATModel:
        return model("untrained")

    @cached_property
    def learning(self) -> hat.HATModel:
        return model("learning")

    @cached_property
    def finished(self) -> hat.HATModel:
        return model("finished")

    @cached_property
    def forgotten(self) -> hat.HATModel:
        return model("forgotten")

    @cached_property
    def x(self) -> Tensor:
        return torch.randn(3, 4)

    @cached_property
    def optimizer(self) -> hat.optim.SGD:
        """An optimizer of `learning`, with gradients to take a step with."""
        optimizer = hat.optim.SGD(self.learning.task_parameters(), lr=0.1)
        self.learning(self.x).sum().backward()
        return optimizer

    @cached_property
    def adamw(self) -> hat.optim.AdamW:
        optimizer = hat.optim.AdamW(self.learning.task_parameters(), lr=0.1)
        self.learning(self.x).sum().backward()
        return optimizer

    @cached_property
    def part(self) -> hat.data.Part:
        return hat.data.Part(torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0, 1]))

    @cached_property
    def task(self) -> hat.data.Task:
        return hat.data.Task("small", ("a", "b"), self.part, self.part, self.part)

    @cached_property
    def stream(self) -> hat.data.Stream:
        return hat.data.Stream("stream", [self.task])

    @cached_property
    def config(self) -> hat.TrainConfig:
        return hat.TrainConfig(epochs=1, batch_size=3, device="cpu")

    @cached_property
    def images(self) -> hat.HATModel:
        """An untrained model for the images of `part`."""
        return hat.HATModel(hat.models.mlp(4, hidden=(3,)))

    @cached_property
    def of_images(self) -> hat.HATModel:
        """A model for the images of `part` that learns its first task."""
        self.images.begin_task(2)
        return self.images

    @cached_property
    def plain(self) -> hat.training.PlainModel:
        """A model without attention that learns its first task."""
        plain = hat.training.PlainModel(Net())
        plain.begin_task(2)
        return plain

    @cached_property
    def checkpoint(self) -> Path:
        hat.checkpoint.save("valid.hat", {"a": torch.ones(2)})
        return Path("valid.hat")

    @cached_property
    def report(self) -> hat.Report:
        return hat.report(self.finished)

    @cached_property
    def probes(self) -> hat.Probes:
        probes = hat.Probes()
        probes.add(self.finished, 1, self.x)
        return probes
