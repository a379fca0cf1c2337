"""Numbers that bound what a gate or a weight may hold; the references and the kernels read the same ones."""

LARGEST = 65504.0
"""The largest finite float16. Autocast may cast a weight to float16: a larger weight becomes inf there, and 0 * inf is
NaN."""
