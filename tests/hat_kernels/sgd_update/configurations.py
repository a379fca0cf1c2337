"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

import torch

from hat_kernels.sgd_update.kernel import sgd_kernel
from hat_kernels.sgd_update.triton import NUM_WARPS
from hat_kernels.table import BLOCK_M, BLOCK_N, STEPS, dtype_code
from tests.hat_kernels.configuration import Configuration


def _configuration(
    name: str,
    parameter: torch.dtype,
    state: torch.dtype,
    *,
    stateful: bool = True,
    steps: int = 1,
    scalars: bool = False,
    nesterov: bool = False,
    clamp: bool = False,
) -> Configuration:
    scalar_type = {"lr_ptr": "*fp32", "scale_ptr": "*fp32", "found_inf_ptr": "*fp32"} if scalars else {}
    numbers = ("lr", "sign", "momentum", "keep", "history", "weight_decay", "limit")
    return Configuration(
        name=f"sgd_update-{name}",
        kernel=sgd_kernel,
        signature={"rows_ptr": "*i64", "owners_ptr": "*i64", **scalar_type, **dict.fromkeys(numbers, "fp32")},
        constants={
            **({} if scalars else {"lr_ptr": None, "scale_ptr": None, "found_inf_ptr": None}),
            "CODES": 1 << dtype_code(parameter, parameter, state),
            "STATEFUL": stateful,
            "NESTEROV": nesterov,
            "DECAY": stateful and not clamp,
            "CLAMP": clamp,
            "MEND": scalars,
            "STEPS": steps,
            "BLOCK_M": BLOCK_M,
            "BLOCK_N": BLOCK_N,
        },
        aligned=("rows_ptr",),
        options={"num_warps": NUM_WARPS},
    )


CONFIGURATIONS: list[Configuration] = [
    _configuration("fp32", torch.float32, torch.float32, stateful=False),
    _configuration("fp32-large", torch.float32, torch.float32, stateful=False, steps=STEPS[-1]),
    _configuration("fp32-momentum", torch.float32, torch.float32),
    _configuration("fp32-momentum-large", torch.float32, torch.float32, steps=STEPS[-1]),
    _configuration("fp32-nesterov-scaled", torch.float32, torch.float32, scalars=True, nesterov=True),
    _configuration("bf16", torch.bfloat16, torch.bfloat16, stateful=False),
    _configuration("bf16-momentum", torch.bfloat16, torch.float32, scalars=True),
    _configuration("bf16-momentum-large", torch.bfloat16, torch.float32, steps=STEPS[-1]),
    _configuration("fp16-momentum", torch.float16, torch.float32, scalars=True),
    _configuration("embeddings", torch.float32, torch.float32, stateful=False, clamp=True),
    _configuration("embeddings-momentum-scaled", torch.float32, torch.float32, scalars=True, clamp=True),
]
