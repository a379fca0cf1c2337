"""How the tests say that a kernel is launched, so that a machine without a GPU can compile and judge it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One kernel as a launcher launches it.

    Attributes:
        name: unique, says what is special: `gated_activation_rows_backward-bf16-relu-embedding`.
        kernel: the `@triton.jit` function.
        signature: argument name to Triton type, `"*fp32"`, `"i32"`, `"i64"`, `"fp32"`; of all that are not constant.
        constants: argument name to value, for every `tl.constexpr`.
        aligned: the arguments that the launcher gets as multiples of 16 (pointers from the allocator, even strides).
        options: `num_warps`, `num_stages`, as launched.
        options_of_64_lanes: what is launched differently where a warp has 64 lanes.
        matmul: must use the tensor-core instruction of its target, see `tests/hat_kernels/compiled.py`.
        vector_bits: the widest global load that the compiled kernel must have; 0 where the layout allows none.
        vector_bits_of_64_lanes: no more than this where a warp has 64 lanes, which halves what a thread has of a tile.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    options_of_64_lanes: dict[str, Any] = field(default_factory=dict)
    matmul: bool = False
    vector_bits: int = 128
    vector_bits_of_64_lanes: int = 128
