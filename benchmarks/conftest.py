"""Set flush mode before the first tensor operation, because only later worker threads inherit the mode."""

import torch

torch.set_flush_denormal(True)

# Without a GPU the kernels are interpreted, and their times say nothing about speed.
collect_ignore = [] if torch.cuda.is_available() else ["test_gpu_operations.py"]
