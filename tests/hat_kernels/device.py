"""The device of the kernel tests: a GPU if there is one, else the CPU with the interpreter; see tests/conftest.py."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
