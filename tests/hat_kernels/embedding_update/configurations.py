"""The kernels of this operation as the launchers launch them, for a proof by compilation alone."""

from __future__ import annotations

import torch

from hat_kernels.embedding_update.kernel import embedding_kernel
from hat_kernels.embedding_update.triton import BLOCK, NUM_WARPS
from hat_kernels.table import dtype_code
from tests.hat_kernels.configuration import Configuration


def _configuration(name: str, *, stateful: bool, scalars: bool) -> Configuration:
    pointers = ("lr_ptr", "scale_ptr", "found_inf_ptr")
    numbers = ("lr", "sign", "momentum", "keep", "history", "limit")
    return Configuration(
        name=f"embedding_update-{name}",
        kernel=embedding_kernel,
        signature={
            "rows_ptr": "*i64",
            "owners_ptr": "*i64",
            **dict.fromkeys(pointers if scalars else (), "*fp32"),
            **dict.fromkeys(numbers, "fp32"),
        },
        constants={
            **dict.fromkeys(() if scalars else pointers),
            "CODES": 1 << dtype_code(torch.float32, torch.float32, torch.float32),
            "STATEFUL": stateful,
            "NESTEROV": False,
            "MEND": scalars,
            "BLOCK": BLOCK,
        },
        aligned=("rows_ptr",),
        options={"num_warps": NUM_WARPS},
        vector_bits=0,  # a few thousand numbers: bound by the launch
    )


CONFIGURATIONS: list[Configuration] = [
    _configuration("plain", stateful=False, scalars=False),
    _configuration("momentum-scaled", stateful=True, scalars=True),
]
