"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

from typing import Any

from hat_kernels.gated_linear.backward import gated_linear_backward
from hat_kernels.gated_linear.blocks import MatmulBlock, blocks_of
from hat_kernels.gated_linear.forward import gated_linear_forward
from hat_kernels.gated_linear.gradient import gated_linear_gradient
from hat_kernels.gated_linear.matmul import GROUP_M
from tests.hat_kernels.configuration import Configuration

TYPES = {"fp32": "fp32", "tf32": "fp32", "bf16": "bf16", "fp16": "fp16"}
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}


def _arguments(kind: str, block: MatmulBlock) -> dict[str, Any]:
    return {
        "PRECISION": "ieee" if kind == "fp32" else "tf32",
        "STEPS": None,
        "GROUP_M": GROUP_M,
        "BLOCK_M": block.m,
        "BLOCK_N": block.n,
        "BLOCK_K": block.depth(SIZES[TYPES[kind]]),
        "PARTS": block.parts,
    }


def _epilogue(form: str, activation: str, dropout: bool) -> dict[str, Any]:
    return {
        "gate_ptr": "*fp32" if form != "none" else None,
        "scale_ptr": "*fp32" if form == "embedding" else None,
        "task_ptr": "*i64" if form == "task" else None,
        "seed_ptr": "*i64" if dropout else None,
        "tasks": "i32",
        "rows_per_sample": 1,
        "threshold": "i32",
        "keep_scale": "fp32",
        "ACTIVATION": activation,
        "GATE": form,
    }


_KINDS = {"i32", "i64", "fp32", "*fp32", "*bf16", "*fp16", "*i64"}
_UNALIGNED = {"rows", "tasks", "threshold", "frozen_rows", "frozen_columns", "row_repeat", "column_repeat"}


def _configuration(
    purpose: str, kernel: Any, kind: str, name: str, extras: list[str], arguments: dict[str, Any]
) -> Configuration:
    """`arguments` has a type or a constant for each argument. Sizes are multiples of 16, as in the benchmarks."""
    block = blocks_of(purpose, kind)[name]
    arguments |= _arguments(kind, block)
    signature = {n: arguments[n] for n in kernel.arg_names if n.islower() and arguments[n] in _KINDS}
    return Configuration(
        name="-".join(["gated_linear", purpose, kind, name, *extras]),
        kernel=kernel,
        signature=signature,
        constants={n: value for n, value in arguments.items() if n not in signature},
        aligned=tuple(n for n, t in signature.items() if t.startswith(("*", "i")) and n not in _UNALIGNED),
        options={"num_warps": block.warps, "num_stages": block.stages_on(amd=False)},
        options_of_64_lanes={"num_stages": block.stages_on(amd=True)},
        matmul=kind != "fp32",
        # The matmul instructions of Hopper and Blackwell need float32 operands contiguous along the inner dimension. So
        # both operands are transposed on the way to shared memory, element by element.
        vector_bits=0 if (purpose, kind) == ("dw", "tf32") else 128,
    )


def _forward(kind: str, name: str, form: str, activation: str, *, keep: bool = True, dropout: bool = False) -> Any:
    pointer = f"*{TYPES[kind]}"
    arguments = _epilogue(form, activation, dropout) | {
        **dict.fromkeys(("x_ptr", "weight_ptr", "y_ptr"), pointer),
        "z_ptr": pointer if keep else None,
        "bias_ptr": "*fp32",
        **dict.fromkeys(("rows", "units", "depth", "stride_xm", "stride_wn"), "i32"),
        **dict.fromkeys(("stride_xk", "stride_wk"), 1),
        "PERSISTENT": blocks_of("forward", kind)[name].persistent,
    }
    extras = [activation, form, *(["dropout"] if dropout else [])]
    return _configuration("forward", gated_linear_forward, kind, name, extras, arguments)


def _backward(kind: str, name: str, form: str, activation: str, *, dropout: bool = False) -> Any:
    pointer = f"*{TYPES[kind]}"
    arguments = _epilogue(form, activation, dropout) | {
        **dict.fromkeys(("dy_ptr", "z_ptr", "weight_ptr", "dx_ptr", "dz_ptr"), pointer),
        "dbias_ptr": "*fp32",
        "dgate_ptr": "*fp32" if form == "embedding" else None,
        **dict.fromkeys(("rows", "units", "depth", "frozen_rows", "stride_dym", "stride_wn"), "i32"),
        **dict.fromkeys(("stride_dyn", "stride_wk"), 1),
        "s_max": "fp32",
        "COMPENSATION": "published",
        "FINAL": False,
    }
    extras = [activation, form, *(["dropout"] if dropout else [])]
    return _configuration("dx", gated_linear_backward, kind, name, extras, arguments)


def _gradient(kind: str, name: str, *, update: str = "", locked: bool = False) -> Any:
    """`update`: the type of the weight that a step updates; empty for a gradient."""
    arguments: dict[str, Any] = {
        **dict.fromkeys(("dz_ptr", "x_ptr"), f"*{TYPES[kind]}"),
        "out_ptr": f"*{update or TYPES[kind]}",
        **dict.fromkeys(("free_rows_ptr", "free_columns_ptr", "lr_ptr"), "*fp32" if locked else None),
        **dict.fromkeys(("rows", "units", "depth", "frozen_rows", "frozen_columns"), "i32"),
        **dict.fromkeys(("row_repeat", "column_repeat"), "i32"),
        **dict.fromkeys(("stride_dzm", "stride_xm", "stride_on"), "i32"),
        **dict.fromkeys(("stride_dzn", "stride_xk", "stride_ok"), 1),
        **dict.fromkeys(("lr", "sign", "weight_decay"), "fp32"),
        "UPDATE": bool(update),
        "DECAY": locked,
        "MEND": locked,
    }
    purpose = "update" if update else "dw"
    extras = [*([update] if update else []), *(["locked"] if locked else [])]
    return _configuration(purpose, gated_linear_gradient, kind, name, extras, arguments)


CONFIGURATIONS: list[Configuration] = [
    _forward("bf16", "wide", "embedding", "relu"),
    _forward("bf16", "square", "task", "gelu", dropout=True),
    _forward("fp16", "narrow", "mask", "relu", keep=False),
    _forward("tf32", "square", "embedding", "relu"),
    _forward("fp32", "plain", "embedding", "relu"),
    _backward("bf16", "wide", "embedding", "relu"),
    _backward("fp16", "square", "task", "gelu", dropout=True),
    _backward("tf32", "narrow", "mask", "relu"),
    _backward("fp32", "plain", "embedding", "relu"),
    _gradient("bf16", "wide"),
    _gradient("tf32", "square"),
    _gradient("bf16", "wide", update="fp32", locked=True),
    _gradient("fp16", "narrow", update="fp16", locked=True),
    _gradient("tf32", "square", update="fp32", locked=True),
    _gradient("fp32", "plain", update="fp32", locked=True),
]
