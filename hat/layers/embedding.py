"""An embedding table whose columns are gated."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import hat_kernels
from hat.units.gate import Gate


class HATEmbedding(nn.Embedding):
    """`y = a * W[tokens]`: what a token is looked up as, times the gate.

    The table lies along the gate by its columns: weight (v, c) moves at the rate `free[c]`, whatever token v is.

    Args:
        num_embeddings: V, how many tokens there are.
        embedding_dim: C, the units of the gate.
        padding_idx: the token whose row is 0 and gets no gradient, as of `torch.nn.Embedding`.
        gate: share this gate of C units instead of making one (a residual stream has one gate).
        factory: `device` and `dtype`, as of `torch.nn.Embedding`.

    Raises:
        ValueError: the gate has another number of units.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        gate: Gate | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, **factory)
        self.gate = Gate(embedding_dim) if gate is None else gate
        self.gate.to(self.weight.device)
        self.gate.attach(self, "weight", 1, table=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """[...] int64 in 0..V-1 to [..., C]."""
        return hat_kernels.gated_activation(super().forward(tokens), activation="identity", gate=self.gate.form())
