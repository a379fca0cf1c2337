"""An embedding table whose columns are gated."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import hat_kernels
from hat.units.gate import Gate


class HATEmbedding(nn.Embedding):
    """`y = a * W[tokens]`: the row of each token, times the gate.

    The columns of the table lie along the gate. So weight (v, c) moves at the rate `free[c]` for every token v.

    Args:
        num_embeddings: V, the number of tokens.
        embedding_dim: C, the number of columns, which are the units of the gate.
        padding_idx: the token whose row is 0 and gets no gradient, the same as for `torch.nn.Embedding`.
        gate: use this gate of C units, which other layers may share (a residual stream has one gate); by default the
            layer makes a gate.
        factory: `device` and `dtype`, the same as for `torch.nn.Embedding`.

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
