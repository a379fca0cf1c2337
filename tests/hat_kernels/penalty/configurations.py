"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

from hat_kernels.penalty.triton import BLOCK, NUM_WARPS, penalty_gradient_kernel, penalty_kernel
from tests.hat_kernels.configuration import Configuration

_OPTIONS = {"num_warps": NUM_WARPS}
CONFIGURATIONS: list[Configuration] = [
    Configuration(
        name="penalty_kernel",
        kernel=penalty_kernel,
        signature={
            "rows_ptr": "*i64",
            "scale_ptr": "*fp32",
            "value_ptr": "*fp32",
            "total_ptr": "*fp32",
            "count": "i32",
        },
        constants={"BLOCK": BLOCK},
        aligned=("rows_ptr",),
        options=_OPTIONS,
        vector_bits=0,  # a few thousand numbers: the launch takes most of the time
    )
] + [
    Configuration(
        name=f"penalty_gradient_kernel-{compensation}",
        kernel=penalty_gradient_kernel,
        signature={
            "grad_ptr": "*fp32",
            "rows_ptr": "*i64",
            "owners_ptr": "*i64",
            "scale_ptr": "*fp32",
            "total_ptr": "*fp32",
            "result_ptr": "*fp32",
            "s_max": "fp32",
        },
        constants={"COMPENSATION": compensation, "BLOCK": BLOCK},
        aligned=("rows_ptr", "result_ptr"),
        options=_OPTIONS,
        vector_bits=0,
    )
    for compensation in ("published", "exact")
]
