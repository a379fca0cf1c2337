"""An embedding table whose columns are gated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.arguments import check_arguments, check_whole, got
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
        TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
        ValueError: a number is out of range, or the gate has another number of units.
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
        check_arguments(HATEmbedding, locals())
        check_whole("num_embeddings", int(num_embeddings), least=1)
        check_whole("embedding_dim", int(embedding_dim), least=1)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx: expected one of {num_embeddings} tokens, got {padding_idx}")
        super().__init__(num_embeddings, embedding_dim, padding_idx, **factory)
        self.gate = Gate(embedding_dim) if gate is None else gate
        self.gate.to(self.weight.device)
        self.gate.attach(self, "weight", 1, table=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """[...] int64 or int32 in 0..V-1 to [..., C].

        Raises:
            TypeError: `tokens` is not such a tensor.
            ValueError: a token is out of range (only a CPU looks).
        """
        if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"tokens: expected a tensor of torch.int64 or torch.int32, got {got(tokens)}")
        try:
            rows = super().forward(tokens)
        except IndexError:
            raise ValueError(f"tokens: expected 0 to {self.num_embeddings - 1}, got others") from None
        return hat_kernels.gated_activation(rows, activation="identity", gate=self.gate.form())
