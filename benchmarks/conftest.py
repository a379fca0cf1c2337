"""Flush mode for every comparison, before the first tensor operation: later worker threads inherit it."""

import torch

torch.set_flush_denormal(True)

# Interpreted kernels say nothing about speed.
collect_ignore = [] if torch.cuda.is_available() else ["test_gpu_operations.py"]
