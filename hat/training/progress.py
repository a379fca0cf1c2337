"""Show progress: bars on a terminal; otherwise one line a task."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


class Progress:
    """Shows the task, the epoch, the mean loss of the epoch so far, and accuracy and capacity of the last epoch.

    Args:
        shown: False shows nothing.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.bar: Any = None
        self.batches = 0
        self.reached: dict[str, str] = {}

    def start_epoch(self, title: str, epoch: int, epochs: int, batches: int) -> None:
        if not (self.shown and sys.stderr.isatty()):
            return
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return
        self.batches = 0
        self.bar = tqdm(total=batches, desc=f"{title}, epoch {epoch + 1}/{epochs}", leave=False, dynamic_ncols=True)
        self.bar.set_postfix(self.reached)

    def advance(self, total: Tensor) -> None:
        """Count one more batch.

        Args:
            total: 0-d, the sum of the losses so far in this epoch. It is read only when the bar is drawn, because
                reading it waits for the device.
        """
        if self.bar is None:
            return
        self.batches += 1
        if self.bar.update():
            self.bar.set_postfix({"loss": f"{total.item() / self.batches:.3f}", **self.reached})

    def end_epoch(self, accuracy: float, capacity: float) -> None:
        """Remember accuracy and capacity of the epoch for the bar of the next epoch."""
        self.reached = {"val": f"{accuracy:.2%}", "used": f"{capacity:.1%}"}
        self.close()

    def end_task(self, line: str) -> None:
        self.reached = {}
        self.write(line)

    def write(self, line: str) -> None:
        self.close()
        if self.shown:
            print(line, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
