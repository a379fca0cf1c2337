"""The arguments that the launchers hand to the kernels: the epilogue, and where sums over columns go."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat_kernels.gate.form import GateForm

SINGLE_PASS_ROWS = 256  # up to so many rows, one program adds whole columns: no second launch for partial sums
PROGRAMS = 4096  # about four times as many as run at once on an H200; the same on every device, so that sums are, too
MAX_CHUNKS = 1024
TILE_BYTES = 8192  # bytes of a tensor that a program reads at once, 64 for each thread


class Epilogue(NamedTuple):
    """What the kernels do to each element: `dropout(activation(x + bias)) * a`.

    No gate is None for a caller of an operation, and `GateForm()` here.
    """

    bias: Tensor | None
    seed: Tensor | None
    gate: GateForm
    activation: str
    dropout: float

    @classmethod
    def of(cls, bias: Tensor | None, seed: Tensor | None, gate: GateForm, activation: str, dropout: float) -> Epilogue:
        """An epilogue with contiguous tensors and float32 masks, as the kernels read them."""
        contiguous = gate._replace(
            embedding=None if gate.embedding is None else gate.embedding.contiguous(),
            mask=None if gate.mask is None else gate.mask.to(torch.float32).contiguous(),
            task=None if gate.task is None else gate.task.contiguous(),
        )
        return cls(None if bias is None else bias.contiguous(), seed, contiguous, activation, dropout)

    def values(self) -> dict[str, Any]:
        """The arguments that all kernels have in common."""
        return {
            **self.gate.kernel_arguments(),
            "bias_ptr": self.bias,
            "seed_ptr": self.seed,
            "threshold": min(round(self.dropout * 2**32), 2**32 - 1) - 2**31,
            "keep_scale": 1 / (1 - self.dropout),
            "ACTIVATION": self.activation,
        }


class Sums(NamedTuple):
    """Where the sums over columns go; see `hat_kernels/gated_activation/tile.py` for the two stages.

    Attributes:
        dbias, dgate: [N] the results, or None if not needed.
        dbias_partial, dgate_partial: [chunks, N] the partial sums; the results themselves if there is one chunk.
        chunks: how many programs share the rows.
    """

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
