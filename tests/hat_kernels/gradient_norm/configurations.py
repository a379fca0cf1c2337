"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

import torch

from hat_kernels.gradient_norm.triton import NUM_WARPS, SUM_BLOCK, SUM_WARPS, _norm_kernel, _partial_kernel
from hat_kernels.table import BLOCK_M, BLOCK_N, STEPS, dtype_code
from tests.hat_kernels.configuration import Configuration


def _partial(name: str, dtype: torch.dtype, *, steps: int = 1, mend: bool = True) -> Configuration:
    return Configuration(
        name=f"gradient_norm-{name}",
        kernel=_partial_kernel,
        signature={"rows_ptr": "*i64", "owners_ptr": "*i64", "partial_ptr": "*fp32"},
        constants={
            "CODES": 1 << dtype_code(dtype, dtype, dtype),
            "MEND": mend,
            "STEPS": steps,
            "BLOCK_M": BLOCK_M,
            "BLOCK_N": BLOCK_N,
        },
        aligned=("rows_ptr", "partial_ptr"),
        options={"num_warps": NUM_WARPS},
        vector_bits_of_64_lanes=128 if dtype == torch.float32 else 64,  # four elements for each thread
    )


def _norm(name: str, *, clip: bool, scaled: bool = False) -> Configuration:
    scale: dict[str, str] = {"scale_ptr": "*fp32"} if scaled else {}
    return Configuration(
        name=f"gradient_norm-{name}",
        kernel=_norm_kernel,
        signature={
            "partial_ptr": "*fp32",
            **scale,
            "result_ptr": "*fp32",
            "max_norm": "fp32",
            "tiny": "fp32",
            "count": "i32",
        },
        constants={**({} if scaled else {"scale_ptr": None}), "CLIP": clip, "BLOCK": SUM_BLOCK},
        aligned=("partial_ptr", "result_ptr"),
        options={"num_warps": SUM_WARPS},
        vector_bits=0,  # the number of partial sums has no known divisor
    )


CONFIGURATIONS: list[Configuration] = [
    _partial("fp32", torch.float32),
    _partial("fp32-large", torch.float32, steps=STEPS[-1]),
    _partial("bf16", torch.bfloat16),
    _partial("bf16-large", torch.bfloat16, steps=STEPS[-1]),
    _partial("fp16", torch.float16),
    _norm("sum", clip=False),
    _norm("factor", clip=True, scaled=True),
]
