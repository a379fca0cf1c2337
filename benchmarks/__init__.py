"""Benchmarks of a training step with HAT.

The rivals are the same network without HAT (`plain`) and the paper's equations as eager PyTorch code (`textbook`).
"""

import os
from pathlib import Path

if (DATA := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():  # real datasets next to the checkout
    os.environ.setdefault("HAT_DATA", str(DATA))
