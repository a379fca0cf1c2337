"""How the kernels of this operation are launched, so that a test can compile them without a GPU.

The sizes are those of the benchmarks: 4096 units, planes of 56 x 56. Block sizes come from the functions of the
launchers.
"""

from __future__ import annotations

from typing import Any

from hat_kernels.gated_activation import planes, rows
from hat_kernels.gated_activation.tile import SUMS, SUMS_OPTIONS, gated_activation_sums
from tests.hat_kernels.configuration import Configuration

ROWS, UNITS = 16384, 4096
PLANES, CHANNELS, INNER = 64, 256, 56 * 56
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}


def _epilogue(
    dtype: str, form: str, activation: str, bias: bool, dropout: bool
) -> tuple[dict[str, str], dict[str, Any]]:
    pointers = {
        "bias_ptr": f"*{dtype}" if bias else None,
        "gate_ptr": "*fp32" if form != "none" else None,
        "scale_ptr": "*fp32" if form == "embedding" else None,
        "task_ptr": "*i64" if form == "task" else None,
        "seed_ptr": "*i64" if dropout else None,
    }
    signature = {name: kind for name, kind in pointers.items() if kind}
    constants: dict[str, Any] = {name: None for name, kind in pointers.items() if not kind}
    return signature | {"tasks": "i32", "threshold": "i32", "keep_scale": "fp32"}, constants | {
        "ACTIVATION": activation,
        "GATE": form,
    }


def _configuration(name: str, kernel: Any, signature: dict[str, str], constants: dict[str, Any]) -> Configuration:
    return Configuration(
        name=name,
        kernel=kernel,
        signature={argument: signature[argument] for argument in kernel.arg_names if argument in signature},
        constants=constants,
        aligned=tuple(argument for argument, kind in signature.items() if kind.startswith("*")),
        options=rows.OPTIONS,
    )


def _forward(layout: str, dtype: str, form: str, activation: str, *, bias: bool = True, dropout: bool = False) -> Any:
    signature, constants = _epilogue(dtype, form, activation, bias, dropout)
    signature |= {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}"}
    if layout == "rows":
        kernel: Any = rows.gated_activation_rows_forward
        block_m, block_n = rows.forward_blocks(UNITS, SIZES[dtype])
        signature |= dict.fromkeys(("rows", "unit_vectors", "stride_xm"), "i32")
        constants |= {"rows_per_sample": 1, "VECTOR": 8, "BLOCK_M": block_m, "BLOCK_N": block_n}
        if form != "task":
            del constants["rows_per_sample"]
            signature["rows_per_sample"] = "i32"
    else:
        kernel = planes.gated_activation_planes_forward
        block_n, block_l = planes.forward_blocks(CHANNELS, INNER, SIZES[dtype])
        signature |= dict.fromkeys(("units", "inner_vectors", "outer_per_sample", "stride_xb", "stride_xn"), "i32")
        constants |= {"VECTOR": 8, "BLOCK_N": block_n, "BLOCK_L": block_l}
    extras = "-dropout" if dropout else ""
    name = f"gated_activation_{layout}_forward-{dtype}-{activation}-{form}{extras}"
    return _configuration(name, kernel, signature, constants)


def _backward(
    layout: str,
    dtype: str,
    form: str,
    activation: str,
    *,
    bias: bool = True,
    dropout: bool = False,
    reads_x: bool = True,
    small: bool = False,
) -> Any:
    signature, constants = _epilogue(dtype, form, activation, bias, dropout)
    final = small or not (bias or form == "embedding")
    signature |= {"dy_ptr": f"*{dtype}", "dx_ptr": f"*{dtype}", "s_max": "fp32"}
    optional = {
        "x_ptr": f"*{dtype}" if reads_x else None,
        "dbias_ptr": (f"*{dtype}" if final else "*fp32") if bias else None,
        "dgate_ptr": "*fp32" if form == "embedding" else None,
    }
    signature |= {name: kind for name, kind in optional.items() if kind}
    constants |= {name: None for name, kind in optional.items() if not kind}
    constants |= {"COMPENSATION": "published", "FINAL": small, "VECTOR": 8}
    if layout == "rows":
        kernel: Any = rows.gated_activation_rows_backward
        block_m, block_n, _ = rows.backward_blocks(64 if small else ROWS, UNITS, SIZES[dtype], not final or small)
        signature |= dict.fromkeys(("rows", "unit_vectors", "rows_per_sample", "stride_dym", "stride_xm"), "i32")
        constants |= {"BLOCK_M": block_m, "BLOCK_N": block_n}
    else:
        kernel = planes.gated_activation_planes_backward
        outer = 1 if small else PLANES
        block_n, block_l, _ = planes.backward_blocks(outer, CHANNELS, INNER, SIZES[dtype], not final or small)
        strides = ("stride_dyb", "stride_dyn", "stride_xb", "stride_xn")
        signature |= dict.fromkeys(("outers", "units", "inner_vectors", "outer_per_sample", *strides), "i32")
        constants |= {"BLOCK_N": block_n, "BLOCK_L": block_l}
    extras = ("-dropout" if dropout else "") + ("-small" if small else "") + ("" if reads_x else "-without_x")
    name = f"gated_activation_{layout}_backward-{dtype}-{activation}-{form}{extras}"
    return _configuration(name, kernel, signature, constants)


_SUMS = Configuration(
    name="gated_activation_sums",
    kernel=gated_activation_sums,
    signature={
        **dict.fromkeys(
            ("dbias_partial_ptr", "dgate_partial_ptr", "dbias_ptr", "dgate_ptr", "gate_ptr", "scale_ptr"), "*fp32"
        ),
        "chunks": "i32",
        "units": "i32",
        "s_max": "fp32",
    },
    constants={"COMPENSATION": "published", **SUMS},
    aligned=("dbias_partial_ptr", "dgate_partial_ptr", "dbias_ptr", "dgate_ptr", "gate_ptr", "scale_ptr"),
    options=SUMS_OPTIONS,
    vector_bits=0,  # at most 1024 rows of partial sums, for any number of units
)

CONFIGURATIONS = [
    _forward("rows", "fp32", "embedding", "relu"),
    _forward("rows", "bf16", "embedding", "gelu"),
    _forward("rows", "bf16", "task", "relu", dropout=True),
    _forward("planes", "fp16", "mask", "relu"),
    _forward("planes", "bf16", "embedding", "relu", bias=False, dropout=True),
    _backward("rows", "fp32", "embedding", "relu"),
    _backward("rows", "fp32", "embedding", "relu", small=True),
    _backward("rows", "bf16", "embedding", "gelu"),
    _backward("rows", "bf16", "task", "relu", dropout=True),
    _backward("rows", "bf16", "mask", "identity", bias=False, reads_x=False),
    _backward("planes", "bf16", "embedding", "relu", bias=False),
    _backward("planes", "fp32", "embedding", "relu", dropout=True),
    _SUMS,
]
