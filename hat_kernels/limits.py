"""Bounds of the values of gates and weights. The references and the kernels use the same bounds."""

LARGEST = 65504.0
"""The largest finite float16. Autocast may cast a weight to float16: a larger weight becomes inf there, and 0 * inf is
NaN."""
