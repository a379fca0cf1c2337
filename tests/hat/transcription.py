"""A direct transcription of the paper's algorithm with the constants of its published code: plain functions on tensors.

Nothing here uses the library. `arithmetic` is the dtype of the network; gates, scale, penalty and embeddings are
float32 whatever it is, because their saturation in float32 is part of the published algorithm. Every constant is a
field of `Recipe`, so that a test can break one on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

S_MAX = 400.0


@dataclass
class Layer:
    """One gated layer: `kind` is "conv" or "linear"; a flatten comes before the first linear one."""

    kind: str
    weight: Tensor
    bias: Tensor
    dropout: float = 0.0


@dataclass(frozen=True)
class Recipe:
    lr: float = 0.05
    lamb: float = 0.75
    clip: float = 10_000.0
    limit: float = 6.0
    cosh_limit: float = 50.0
    input_dropout: float = 0.0
    drop: Callable[[Tensor, float], Tensor] = F.dropout  # another one draws other random numbers
    floor: float = 0.0  # of the library, not of the paper: gates below it count as 0
    # Factors of 1 that a test may set to something else.
    compensation: float = 1.0
    rate: float = 1.0
    last_free: float = 1.0
    anneal: float = 1.0


@dataclass
class Run:
    """The state of a run: layers, embeddings, heads, masks of finished tasks."""

    layers: list[Layer]
    recipe: Recipe = field(default_factory=Recipe)
    embeddings: list[Tensor] = field(default_factory=list)
    heads: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    used: list[Tensor] | None = None
    losses: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)

    def tensors(self) -> list[Tensor]:
        weights = [t for layer in self.layers for t in (layer.weight, layer.bias)]
        return [*weights, *self.embeddings, *(t for head in self.heads for t in head)]

    def begin(self, embeddings: Sequence[Tensor], head: tuple[Tensor, Tensor]) -> None:
        dtype = self.layers[0].weight.dtype
        self.embeddings = [e.detach().clone() for e in embeddings]
        self.heads.append(tuple(t.detach().clone().to(dtype) for t in head))

    def end(self) -> None:
        masks = [torch.sigmoid(torch.tensor(S_MAX) * e) for e in self.embeddings]
        old = self.used
        self.used = masks if old is None else [torch.maximum(u, m) for u, m in zip(old, masks, strict=True)]

    def step(self, x: Tensor, y: Tensor, b: int, batches: int) -> None:
        one_step(self, x, y, b, batches)


def scale_of(b: int, batches: int, recipe: Recipe) -> Tensor:
    progress = (b - 1) / (batches - 1) if batches > 1 else 1.0
    return torch.tensor(1 / S_MAX + (S_MAX - 1 / S_MAX) * progress * recipe.anneal, dtype=torch.float32)


def forward(run: Run, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """h = a * maxpool(dropout(relu(W x + b))), then the head of the last task."""
    if run.layers[0].kind == "linear":
        x = run.recipe.drop(x.flatten(1), run.recipe.input_dropout)
    for layer, a in zip(run.layers, gates, strict=True):
        if layer.kind == "conv":
            h = run.recipe.drop(torch.relu(F.conv2d(x, layer.weight, layer.bias)), layer.dropout)
            x = F.max_pool2d(h, 2) * a.view(1, -1, 1, 1)
        else:
            h = torch.relu(F.linear(x.flatten(1), layer.weight, layer.bias))
            x = run.recipe.drop(h, layer.dropout) * a
    return F.linear(x, *run.heads[-1])


def floored(a: Tensor, floor: float) -> Tensor:
    """Small gates as 0, their gradient as it was."""
    return a - torch.where(a < floor, a, 0.0).detach()


def penalty_of(run: Run, gates: Sequence[Tensor]) -> Tensor:
    """One fraction over the whole network."""
    free = free_units(run)
    numerator = sum((a * f).sum() for a, f in zip(gates, free, strict=True))
    return numerator / sum(f.sum() for f in free)


def free_units(run: Run) -> list[Tensor]:
    if run.used is None:
        return [torch.ones_like(e) for e in run.embeddings]
    free = [1 - u for u in run.used]
    return [*free[:-1], free[-1] * run.recipe.last_free]


def rate_of(run: Run, index: int) -> tuple[Tensor, Tensor]:
    """The rates of a layer's weight and bias, as full matrices."""
    layer, used = run.layers[index], run.used
    assert used is not None
    out = used[index].to(layer.weight.dtype)
    tail = (1,) * (layer.weight.dim() - 1)
    locked = out.view(-1, *tail).expand_as(layer.weight)
    if index:
        before = used[index - 1].to(layer.weight.dtype)
        into = before.repeat_interleave(layer.weight.shape[1] // before.numel()).view(1, -1, *tail[1:])
        locked = torch.minimum(locked, into.expand_as(layer.weight))
    return (1 - locked) * run.recipe.rate, 1 - out


def compensated(run: Run, q: Tensor, e: Tensor, s: Tensor) -> Tensor:
    limit = run.recipe.cosh_limit
    numerator = torch.cosh(torch.clamp(s * e, -limit, limit)) + 1
    return q * (S_MAX / s * numerator / (torch.cosh(e) + 1)) * run.recipe.compensation


def one_step(run: Run, x: Tensor, y: Tensor, b: int, batches: int) -> None:
    """Backward, lock, compensate, clip the global norm, step, clamp."""
    recipe, dtype = run.recipe, run.layers[0].weight.dtype
    s = scale_of(b, batches, recipe)
    weights = [t for layer in run.layers for t in (layer.weight, layer.bias)]
    leaves = [*weights, *run.embeddings, *run.heads[-1]]
    for leaf in leaves:
        leaf.requires_grad_()
    gates = [floored(torch.sigmoid(s * e), recipe.floor) for e in run.embeddings]
    task_loss = F.cross_entropy(forward(run, x.to(dtype), [a.to(dtype) for a in gates]), y)
    penalty = penalty_of(run, gates)
    grads = list(torch.autograd.grad(task_loss + recipe.lamb * penalty, leaves))
    for leaf in leaves:
        leaf.requires_grad_(False)
    run.losses.append(task_loss.item())
    run.penalties.append(penalty.item())
    if run.used is not None:
        for index in range(len(run.layers)):
            for offset, rate in enumerate(rate_of(run, index)):
                grads[2 * index + offset] = grads[2 * index + offset] * rate
    for index, e in enumerate(run.embeddings):
        at = len(weights) + index
        grads[at] = compensated(run, grads[at], e, s)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g).to(dtype) for g in grads]))
    factor = recipe.clip / (norm + 1e-6)
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.sub_(recipe.lr * (grad * factor if factor < 1 else grad).to(leaf.dtype))
    for e in run.embeddings:
        e.clamp_(-recipe.limit, recipe.limit)
