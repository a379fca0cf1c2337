"""How a kernel is launched, as data: a machine without a GPU can compile the kernel from it and check the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One kernel, with the types and constants that a launcher launches it with.

    Attributes:
        name: unique; says how this launch differs from others: `gated_activation_rows_backward-bf16-relu-embedding`.
        kernel: the `@triton.jit` function.
        signature: argument name to Triton type (`"*fp32"`, `"i32"`, ...), for every argument that is not constant.
        constants: argument name to value, for every `tl.constexpr`.
        aligned: the arguments that are multiples of 16 at a launch (pointers from the allocator, even strides).
        options: launch options, `num_warps` and `num_stages`.
        options_of_64_lanes: launch options that differ on a GPU whose warps have 64 lanes (AMD).
        matmul: the compiled kernel must use the tensor cores of its target, see `tests/hat_kernels/compiled.py`.
        vector_bits: the compiled kernel must have a global load of this many bits; 0 if the layout allows no wide load.
        vector_bits_of_64_lanes: an upper bound of `vector_bits` on a GPU whose warps have 64 lanes: there a thread gets
            half as many elements of a tile.
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
