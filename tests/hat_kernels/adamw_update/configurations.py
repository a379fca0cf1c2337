"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

import torch

from hat_kernels.adamw_update.kernel import adamw_kernel, advance_kernel
from hat_kernels.adamw_update.triton import ADDED, DECOUPLED, NUM_WARPS
from hat_kernels.table import BLOCK_M, BLOCK_N, STEPS, dtype_code
from tests.hat_kernels.configuration import Configuration


def _configuration(
    name: str,
    parameter: torch.dtype,
    *,
    state: torch.dtype = torch.float32,
    steps: int = 1,
    scalars: bool = False,
    amsgrad: bool = False,
    decay: int = DECOUPLED,
) -> Configuration:
    pointers = {"lr_ptr": "*fp32", "scale_ptr": "*fp32", "found_inf_ptr": "*fp32"}
    numbers = ("lr", "sign", "log_beta1", "log_beta2", "beta2", "new1", "new2", "eps", "weight_decay")
    return Configuration(
        name=f"adamw_update-{name}",
        kernel=adamw_kernel,
        signature={
            "rows_ptr": "*i64",
            "owners_ptr": "*i64",
            **(pointers if scalars else {}),
            **dict.fromkeys(numbers, "fp32"),
        },
        constants={
            **({} if scalars else dict.fromkeys(pointers)),
            "CODES": 1 << dtype_code(parameter, parameter, state),
            "AMSGRAD": amsgrad,
            "DECAY": decay,
            "MEND": scalars,
            "STEPS": steps,
            "BLOCK_M": BLOCK_M,
            "BLOCK_N": BLOCK_N,
        },
        aligned=("rows_ptr",),
        options={"num_warps": NUM_WARPS},
    )


CONFIGURATIONS: list[Configuration] = [
    _configuration("fp32", torch.float32),
    _configuration("fp32-large", torch.float32, steps=STEPS[-1]),
    _configuration("fp32-scaled", torch.float32, scalars=True),
    _configuration("fp32-amsgrad", torch.float32, amsgrad=True, decay=ADDED),
    _configuration("fp32-amsgrad-large", torch.float32, amsgrad=True, steps=STEPS[-1], scalars=True),
    _configuration("bf16", torch.bfloat16, scalars=True),
    _configuration("bf16-large", torch.bfloat16, steps=STEPS[-1], scalars=True),
    _configuration("bf16-amsgrad", torch.bfloat16, amsgrad=True, scalars=True),
    _configuration("fp16", torch.float16, scalars=True),
    Configuration(
        name="adamw_update-advance",
        kernel=advance_kernel,
        signature={"rows_ptr": "*i64", "found_inf_ptr": "*fp32", "count": "i32"},
        constants={"BLOCK": 32},
        aligned=("rows_ptr",),
        options={"num_warps": 1},
        vector_bits=0,
    ),
]
