"""What is done to every element, as the launchers hand it on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat_kernels.gate.form import GateForm

SINGLE_PASS_ROWS = 256  # up to here one program adds whole columns, which saves the launch that adds partial sums
PROGRAMS = 4096  # about four times what an H200 holds at once; fixed, so that sums do not depend on the device
MAX_CHUNKS = 1024
TILE_BYTES = 8192  # of one tensor a program: 64 bytes in flight a thread


class Epilogue(NamedTuple):
    """What is done to every element: `dropout(activation(x + bias)) * a`; `GateForm()` stands for no gate."""

    bias: Tensor | None
    seed: Tensor | None
    gate: GateForm
    activation: str
    dropout: float

    @classmethod
    def of(cls, bias: Tensor | None, seed: Tensor | None, gate: GateForm, activation: str, dropout: float) -> Epilogue:
        """The tensors contiguous and masks in float32, as kernels read them."""
        contiguous = gate._replace(
            embedding=None if gate.embedding is None else gate.embedding.contiguous(),
            mask=None if gate.mask is None else gate.mask.to(torch.float32).contiguous(),
            task=None if gate.task is None else gate.task.contiguous(),
        )
        return cls(None if bias is None else bias.contiguous(), seed, contiguous, activation, dropout)

    def values(self) -> dict[str, Any]:
        """The arguments that every kernel has in common."""
        return {
            **self.gate.kernel_arguments(),
            "bias_ptr": self.bias,
            "seed_ptr": self.seed,
            "threshold": min(round(self.dropout * 2**32), 2**32 - 1) - 2**31,
            "keep_scale": 1 / (1 - self.dropout),
            "ACTIVATION": self.activation,
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
