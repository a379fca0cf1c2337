"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

from hat_kernels.lock_update.triton import lock_update_kernel
from tests.hat_kernels.locked_rows import configurations

CONFIGURATIONS = configurations(
    lock_update_kernel, ("parameter_ptr", "before_ptr"), ("stride_vectors", "stride_before_vectors")
)
