"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

from hat_kernels.gate.triton import BLOCK, OPTIONS, gate_backward, gate_forward
from tests.hat_kernels.configuration import Configuration

_FORWARD = Configuration(
    name="gate_forward",
    kernel=gate_forward,
    signature={"embedding_ptr": "*fp32", "scale_ptr": "*fp32", "gate_ptr": "*fp32", "units": "i32"},
    constants={"BLOCK": BLOCK},
    aligned=("embedding_ptr", "scale_ptr", "gate_ptr"),
    options=OPTIONS,
    vector_bits=0,  # at most a few thousand units, of any number: one mask bit for each
)

CONFIGURATIONS = [_FORWARD] + [
    Configuration(
        name=f"gate_backward-{compensation}",
        kernel=gate_backward,
        signature={
            "grad_ptr": "*fp32",
            "embedding_ptr": "*fp32",
            "scale_ptr": "*fp32",
            "result_ptr": "*fp32",
            "units": "i32",
            "s_max": "fp32",
        },
        constants={"COMPENSATION": compensation, "BLOCK": BLOCK},
        aligned=("grad_ptr", "embedding_ptr", "scale_ptr", "result_ptr"),
        options=OPTIONS,
        vector_bits=0,
    )
    for compensation in ("none", "published", "exact")
]
