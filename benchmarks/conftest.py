"""Flush mode for every comparison, before the first tensor operation: later worker threads inherit it."""

import torch

torch.set_flush_denormal(True)
