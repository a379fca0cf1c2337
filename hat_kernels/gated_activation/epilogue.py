"""What is done to every element, as the launchers hand it on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

SINGLE_PASS_ROWS = 256  # up to here one program adds whole columns, which saves the launch that adds partial sums
PROGRAMS = 4096  # about four times what an H200 holds at once; fixed, so that sums do not depend on the device
MAX_CHUNKS = 1024
TILE_BYTES = 8192  # of one tensor a program: 64 bytes in flight a thread


class Epilogue(NamedTuple):
    """Bias, activation, dropout and gate; `gate` is the embedding or the mask, as `form` says."""

    bias: Tensor | None
    gate: Tensor | None
    scale: Tensor | None
    task: Tensor | None
    seed: Tensor | None
    activation: str
    dropout: float
    s_max: float
    compensation: str

    @classmethod
    def of(
        cls,
        bias: Tensor | None,
        embedding: Tensor | None,
        scale: Tensor | None,
        mask: Tensor | None,
        task: Tensor | None,
        seed: Tensor | None,
        activation: str,
        dropout: float,
        s_max: float,
        compensation: str,
    ) -> Epilogue:
        """Of an operator's arguments; vectors contiguous, as kernels read them."""
        bias, gate, task = (
            t if t is None else t.contiguous() for t in (bias, mask if embedding is None else embedding, task)
        )
        return cls(bias, gate, scale, task, seed, activation, dropout, s_max, compensation)

    @property
    def form(self) -> str:
        if self.gate is None:
            return "none"
        if self.scale is not None:
            return "embedding"
        return "mask" if self.task is None else "task"

    @property
    def tasks(self) -> int:
        return self.gate.shape[0] if self.gate is not None and self.task is not None else 1

    def values(self) -> dict[str, Any]:
        """The arguments that every kernel has in common."""
        return {
            "bias_ptr": self.bias,
            "gate_ptr": self.gate,
            "scale_ptr": self.scale,
            "task_ptr": self.task,
            "seed_ptr": self.seed,
            "tasks": self.tasks,
            "threshold": min(round(self.dropout * 2**32), 2**32 - 1) - 2**31,
            "keep_scale": 1 / (1 - self.dropout),
            "ACTIVATION": self.activation,
            "GATE": self.form,
        }


class Sums(NamedTuple):
    """Where the column sums go: into partials [chunks, N], or straight into the results if there is one chunk."""

    dbias: Tensor | None
    dgate: Tensor | None
    dbias_partial: Tensor | None
    dgate_partial: Tensor | None
    chunks: int

    @classmethod
    def of(cls, dbias: Tensor | None, dgate: Tensor | None, chunks: int) -> Sums:
        if chunks == 1:
            return cls(dbias, dgate, dbias, dgate, 1)
        return cls(dbias, dgate, _partial(dbias, chunks), _partial(dgate, chunks), chunks)


def _partial(result: Tensor | None, chunks: int) -> Tensor | None:
    if result is None:
        return None
    return torch.empty((chunks, result.numel()), dtype=torch.float32, device=result.device)
