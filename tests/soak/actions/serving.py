"""Finished tasks answer: in mixed batches, in threads, and with gradients."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hat.tracing.untouched import evaluating
from tests.soak.actions.base import Action
from tests.soak.actions.training import Train, make_optimizer, train_step
from tests.soak.world import BATCH, Broken, World

_THREADS, _ROUNDS = 3, 12


class Mixed(Action):
    """A batch that mixes tasks, to rounding; a batch of one task, with its bits."""

    name = "mixed"

    def possible(self, world: World) -> bool:
        return bool(world.promises) and not world.untold

    @torch.no_grad()
    def perform(self, world: World, rng: random.Random) -> None:
        task = rng.choice(list(world.promises))
        with evaluating(world.model):
            x = world.promises[task].x
            logits = world.model(x, task=torch.full((BATCH,), task))
            if not torch.equal(logits, world.promises[task].logits[torch.float32]):
                raise Broken("a tensor with one task gives other bits", f"task {task}")
            tasks = torch.tensor([rng.choice(list(world.promises)) for _ in range(BATCH)])
            rows = torch.stack([world.promises[int(task)].x[row] for row, task in enumerate(tasks)])
            self._compare(world, world.model(rows, task=tasks), tasks)

    def _compare(self, world: World, logits: Tensor, tasks: Tensor) -> None:
        for row, task in enumerate(tasks.tolist()):
            expected = world.promises[task].logits[torch.float32][row]
            got = logits[row, : len(expected)]
            if not torch.allclose(got, expected, rtol=1e-4, atol=1e-4):
                raise Broken("a mixed batch answers differently", f"task {task} by {(got - expected).abs().max():.2g}")


class Saliency(Action):
    """The gradient of a finished task's answer in its input, with and without computing the network again."""

    name = "saliency"
    weight = 0.5

    def possible(self, world: World) -> bool:
        return bool(world.promises)

    def perform(self, world: World, rng: random.Random) -> None:
        task, reentrant = rng.choice(list(world.promises)), rng.random() < 0.5
        x = world.promises[task].x.clone().requires_grad_()

        def logits(z: Tensor) -> Tensor:
            return world.model(z, task=task)

        def gradient(answer: Tensor) -> Tensor:
            x.grad = None
            answer.sum().backward()
            assert x.grad is not None
            return x.grad

        parameters = list(world.model.parameters())
        grads = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        with evaluating(world.model):
            plain = gradient(logits(x))
            again = gradient(checkpoint(logits, x, use_reentrant=reentrant))
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        if not torch.equal(plain, again):
            raise Broken("the gradient of a finished task differs under checkpointing", f"task {task}")


class ServeInThreads(Action):
    """Threads serve finished tasks, each its own."""

    name = "threads"
    weight = 0.5

    def possible(self, world: World) -> bool:
        return bool(world.promises) and not world.untold

    def perform(self, world: World, rng: random.Random) -> None:
        with evaluating(world.model), _served(world):
            pass


class TrainWhileServing(Train):
    """Threads serve finished tasks while the present task is trained."""

    name = "train-threads"
    weight = 0.5
    may_stop = False

    def possible(self, world: World) -> bool:
        return world.model.learning and bool(world.promises) and world.steady and not world.untold

    def perform(self, world: World, rng: random.Random) -> None:
        if world.optimizer is None:
            world.optimizer = make_optimizer(world.model, rng)
        world.model.train()
        with _served(world):
            train_step(world, rng)


@contextmanager
def _served(world: World) -> Iterator[None]:
    """Serve finished tasks in threads while the block runs.

    Raises:
        Broken: an answer was wrong, though no answer is wrong when the block has ended.
    """
    wrong: list[str] = []
    tasks = list(world.promises)

    def serve(number: int) -> None:
        try:
            with torch.no_grad():
                for turn in range(_ROUNDS):
                    task = tasks[(number + turn) % len(tasks)]
                    promise = world.promises[task]
                    if not torch.equal(world.model(promise.x, task=task), promise.logits[torch.float32]):
                        wrong.append(f"task {task}")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")

    with _switching_often():
        threads = [threading.Thread(target=serve, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()
    if wrong and not world.hazards:
        raise Broken("wrong answers in threads", f"{len(wrong)} of {_THREADS * _ROUNDS}, first {wrong[0]}")


@contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
