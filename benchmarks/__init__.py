"""What a HAT step costs, against the same network without HAT and against a textbook transcription of the paper."""

import os
from pathlib import Path

if (DATA := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():  # real datasets beside the checkout
    os.environ.setdefault("HAT_DATA", str(DATA))
