"""How the kernels of this operation are launched, so that a test can compile them without a GPU."""

from __future__ import annotations

from hat_kernels.lock_gradient.triton import lock_gradient_kernel
from tests.hat_kernels.locked_rows import configurations

CONFIGURATIONS = configurations(lock_gradient_kernel, ("grad_ptr",), ("stride_vectors",))
