"""Where kernels are tested: compiled on a GPU if there is one, else interpreted on the CPU (see tests/conftest.py)."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
