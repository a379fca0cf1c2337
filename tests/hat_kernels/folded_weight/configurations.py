"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

from typing import Any

from hat_kernels.folded_weight.kernel import (
    NOT_SPECIALIZED,
    OPTIONS,
    TILE,
    WIDEST,
    backward_blocks,
    blocks,
    folded_weight_backward,
    folded_weight_forward,
)
from hat_kernels.gated_activation.layout import block, vector
from tests.hat_kernels.configuration import Configuration


def _forward_configuration(name: str, units: int, length: int, weight: str, folded: str, bias: bool) -> Configuration:
    block_m, _ = blocks(units, length)
    pointers = {"weight_ptr": weight, "embedding_ptr": "fp32", "scale_ptr": "fp32", "folded_ptr": folded}
    pointers |= {"bias_ptr": weight, "folded_bias_ptr": folded} if bias else {}
    constants = {} if bias else {"bias_ptr": None, "folded_bias_ptr": None}
    return _configuration(f"folded_weight_forward-{name}", folded_weight_forward, pointers, constants, length, block_m)


def _backward_configuration(
    name: str, units: int, length: int, weight: str, folded: str, bias: bool, compensation: str = "published"
) -> Configuration:
    block_m, _, chunks = backward_blocks(units, length, True)
    pointers = {"dfolded_ptr": folded, "dweight_ptr": weight, "weight_ptr": weight}
    pointers |= dict.fromkeys(("embedding_ptr", "scale_ptr", "dembedding_ptr"), "fp32")
    bias_pointers = {"dfolded_bias_ptr": folded, "bias_ptr": weight, "dbias_ptr": weight}
    pointers |= bias_pointers if bias else {}
    constants = {} if bias else dict.fromkeys(bias_pointers)
    constants |= {"COMPENSATION": compensation, "FINAL": chunks == 1}
    name = f"folded_weight_backward-{name}-{'one' if chunks == 1 else 'two'}-{compensation}"
    return _configuration(name, folded_weight_backward, pointers, constants, length, block_m)


def _configuration(
    name: str, kernel: Any, pointers: dict[str, str], constants: dict[str, Any], length: int, block_m: int
) -> Configuration:
    width, block_n = vector(length), block(length, WIDEST)
    signature = {pointer: f"*{kind}" for pointer, kind in pointers.items()}
    signature |= {name: "i32" for name in NOT_SPECIALIZED if name in kernel.arg_names}
    signature |= {"s_max": "fp32"} if "s_max" in kernel.arg_names else {}
    return Configuration(
        name=name,
        kernel=kernel,
        signature={argument: signature[argument] for argument in kernel.arg_names if argument in signature},
        constants={**constants, "VECTOR": width, "BLOCK_M": block_m, "BLOCK_N": block_n},
        aligned=tuple(pointers),
        options=OPTIONS,
        vector_bits=128 if width == 8 else 0,
        vector_bits_of_64_lanes=128 if block_m * block_n == TILE or pointers["weight_ptr"] == "fp32" else 64,
    )


# The layers of the benchmarks: 4096 x 4096; convolutions 3 x 3 of 64 and of 512 channels; a first one of 3 channels.
CONFIGURATIONS = [
    _forward_configuration("fp32-bf16-linear", 4096, 4096, "fp32", "bf16", True),
    _forward_configuration("fp32-fp32-conv", 64, 576, "fp32", "fp32", False),
    _forward_configuration("bf16-bf16-conv", 512, 4608, "bf16", "bf16", True),
    _forward_configuration("fp32-bf16-first", 64, 27, "fp32", "bf16", True),
    _backward_configuration("fp32-bf16-linear", 4096, 4096, "fp32", "bf16", True),
    _backward_configuration("fp32-fp32-conv", 64, 576, "fp32", "fp32", False, "exact"),
    _backward_configuration("bf16-bf16-conv", 512, 4608, "bf16", "bf16", True),
    _backward_configuration("fp32-bf16-conv", 512, 4608, "fp32", "bf16", True, "none"),
    _backward_configuration("fp32-bf16-first", 64, 27, "fp32", "bf16", True),
]
