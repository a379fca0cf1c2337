"""The kernels that lock one tensor as the launchers launch them, for a proof by compilation alone."""

from __future__ import annotations

from typing import Any

from hat_kernels.locked_rows import OPTIONS, TILE, VECTOR, WIDTH
from tests.hat_kernels.configuration import Configuration


def configurations(kernel: Any, tensors: tuple[str, ...], strides: tuple[str, ...]) -> list[Configuration]:
    """How a kernel that takes `Rows.arguments` is launched: a linear weight in each dtype, other forms in one dtype.

    Args:
        kernel: the `@triton.jit` function.
        tensors: the names of the arguments that point to the parameter and to tensors of its dtype.
        strides: the names of the arguments that hold their strides.
    """
    launched = []
    for form, dtype, constants in _FORMS:
        pointers = {**dict.fromkeys(tensors, f"*{dtype}"), "row_units_ptr": "*fp32", "column_units_ptr": "*fp32"}
        signature = {**pointers, **dict.fromkeys((*_COUNTS, *strides), "i32")}
        constants = {**_LINEAR, **constants}
        launched.append(
            Configuration(
                name=f"{kernel.__name__.removesuffix('_kernel')}-{dtype}-{form}",
                kernel=kernel,
                signature={name: kind for name, kind in signature.items() if name not in constants},
                constants=constants,
                aligned=tuple(name for name in pointers if name not in constants),
                options=OPTIONS,
                vector_bits=128 if constants["VECTOR"] == VECTOR else 0,
            )
        )
    return launched


_COUNTS = ("row_count", "vectors_per_row", "row_span", "column_span", "column_count", "group_rows")
_LINEAR = {
    "row_span": 1,  # Triton compiles every integer argument that is 1 as a constant
    "column_span": 1,
    "CHANNELS_LAST": False,
    "GROUPED": False,
    "VECTOR": VECTOR,
    "BLOCK_M": TILE // WIDTH,
    "BLOCK_N": WIDTH,
}
_ONE_ROW = {"row_units_ptr": None, "row_count": 1, "group_rows": 1, "BLOCK_M": 1, "BLOCK_N": TILE}
_FORMS: list[tuple[str, str, dict[str, Any]]] = [
    ("linear", "fp32", {}),
    ("linear", "fp16", {}),
    ("linear", "bf16", {}),
    ("channels-last-grouped", "fp32", {"CHANNELS_LAST": True, "GROUPED": True}),
    ("one-row", "bf16", _ONE_ROW),
    ("odd", "fp32", {"VECTOR": 1}),
]
