"""Bounds of the values of gates and weights. The references and the kernels use the same bounds."""

GATE_FLOOR = 2.0**-32
"""A gate below this is set to exactly 0. 2^-32 is 2^8 below the resolution of float32, so beside a unit that is on, the
unit of such a gate would change nothing. The product of two gates above the floor is at least 2^-64. It stays far from
the subnormals (below 2^-126), with which a matmul on a CPU is many times slower."""

LARGEST = 65504.0
"""The largest finite float16. Autocast may cast a weight to float16: a larger weight becomes inf there, and 0 * inf is
NaN."""
