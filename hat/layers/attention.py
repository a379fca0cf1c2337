"""Attention over tokens whose heads, or the dimensions of whose heads, are gated."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat_kernels
from hat.layers.gated import GatedLayer, HATLinear
from hat.layers.projection import Projection
from hat.units.gate import Gate
from hat_kernels.dropout.api import check_probability


class HATMultiheadAttention(nn.Module):
    """`y = a * (W_o [softmax(q_h k_h^T / sqrt(D)) v_h]_h + b_o)`, heads h of D dimensions (Vaswani et al., 2017).

    Each of the four is a linear layer of its own, so that what is locked of it is a block of its own. Queries and keys
    have one gate together, as an off-dimension of both adds exactly 0 to their product, and values have another. With
    `per_head` all three have one gate of a unit a head, applied to what the head answers: a head is on or off.

    A residual stream is one gate, which all that writes to it takes as `gate`, and all that reads it as `inputs`: the
    sum of what a gate has gated is gated. A norm in front of a branch turns off-units on: it has the gate too.

        stream = hat.Gate(64)
        tokens = hat.HATEmbedding(1000, 64, gate=stream)
        positions = hat.PositionalTable(128, 64, gate=stream)
        norm1, norm2 = (hat.HATLayerNorm(64, gate=stream) for _ in range(2))
        attention = hat.HATMultiheadAttention(64, 4, gate=stream, inputs=stream)
        feed_forward = hat.FeedForward(64, 256, gate=stream, inputs=stream)

        x = positions(tokens(text))
        x = x + attention(norm1(x))
        x = x + feed_forward(norm2(x))
        features = x.mean(1)  # hat.HATModel(body, features=64, outputs=stream)

    Args:
        embed_dim: E, of queries and of what comes out.
        num_heads: H, which divides E.
        bias: learn additive biases.
        dropout: probability in [0, 1) of dropping an attention weight in training mode.
        gate: share this gate of E units for what comes out, instead of making one.
        inputs: the gate of the units of queries; of keys and values too unless `memory`, `kdim` or `vdim` is given.
            None: of nobody, which locks more.
        memory: the gate of the units of keys and values, where they come from elsewhere.
        per_head: gate whole heads.
        kdim, vdim: the width of keys and values, by default E. Nobody's units without `memory`.
        factory: `device` and `dtype`, as of `torch.nn.Linear`.

    Attributes:
        query, key, value, out: the four layers; the gates are `query.gate`, `value.gate` and `out.gate`.

    Raises:
        ValueError: an option out of range, or a gate that does not fit.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        gate: Gate | None = None,
        inputs: Gate | None = None,
        memory: Gate | None = None,
        per_head: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        check_probability(dropout, "dropout")
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {embed_dim}, got {num_heads}")
        self.num_heads, self.dropout, self.per_head = num_heads, dropout, per_head
        self.scale = (embed_dim // num_heads) ** -0.5  # for good, however many dimensions a head has later
        alone = memory is None and kdim is None and vdim is None
        self._expects_memory = memory is not None and memory is not inputs
        self._expects_itself = alone and inputs is not None
        others = inputs if alone else memory
        options = {"bias": bias, **factory}
        middle = self._make_gates(embed_dim)
        widths = (embed_dim, kdim or embed_dim, vdim or embed_dim)
        self.query, self.key, self.value = (
            self._make_layer(width, embed_dim, own, feed, options)
            for width, own, feed in zip(widths, middle, (inputs, others, others), strict=True)
        )
        self.out = HATLinear(embed_dim, embed_dim, activation="identity", gate=gate, **options)
        self.out.connect(self.value.gate, repeat=embed_dim // num_heads if per_head else 1)
        for own in middle:
            own.complete = type(self) is HATMultiheadAttention

    @property
    def gate(self) -> Gate:
        """Of what comes out."""
        return self.out.gate

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """[B, N, E] to [B, N, E].

        Args:
            query: [B, N, E].
            key: [B, M, kdim], by default `query`.
            value: [B, M, vdim], by default `key`.
            attn_mask: broadcastable to [B, H, N, M], as of `torch.nn.functional.scaled_dot_product_attention`: added to
                the products, or bool, True where a key takes part.
            is_causal: a query meets no later key.

        Raises:
            ValueError: a key or value from elsewhere though this layer was told that they are the queries, or none
                though it was told that they come from elsewhere: the locks would be those of other units.
        """
        key = query if key is None else key
        value = key if value is None else value
        self._check_sources(query, key, value)
        q, k, v = (self._split(layer(x)) for layer, x in self._pairs(query, key, value))
        dropout = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(
            q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
        )
        if self.per_head:
            h = hat_kernels.gated_activation(h, activation="identity", gate=self.value.gate.form(), unit_dim=1)
        y: Tensor = self.out(h.transpose(1, 2).flatten(2))
        return y

    def _pairs(self, *sources: Tensor) -> zip[tuple[nn.Module, Tensor]]:
        return zip((self.query, self.key, self.value), sources, strict=True)

    def _make_gates(self, units: int) -> tuple[Gate, Gate, Gate]:
        """Of queries, keys and values."""
        if self.per_head:
            heads = Gate(self.num_heads)
            return heads, heads, heads
        segments = torch.arange(self.num_heads).repeat_interleave(units // self.num_heads)
        products = Gate(units, segments=segments)
        return products, products, Gate(units, segments=segments)

    def _make_layer(
        self, in_features: int, units: int, gate: Gate, inputs: Gate | None, options: dict[str, Any]
    ) -> GatedLayer:
        if self.per_head:
            return Projection(in_features, units, gate=gate, inputs=inputs, repeat=units // self.num_heads, **options)
        return HATLinear(in_features, units, activation="identity", gate=gate, inputs=inputs, **options)

    def _check_sources(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        itself = key is query and value is query
        if self._expects_itself and not itself:
            raise ValueError("key: expected the queries, as `inputs` are the units of both, got others; see `memory`")
        if self._expects_memory and (key is query or value is query):
            raise ValueError("key: expected keys and values of the units of `memory`, got the queries")

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, E] to [B, H, N, D]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, dropout={self.dropout}, per_head={self.per_head}"
