"""Progress bars on a terminal, one line a task elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Shows the task, epoch, loss, validation accuracy and used capacity.

    Args:
        shown: False for silence.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.bar: Any = None
        self.postfix: dict[str, str] = {}

    def start_epoch(self, title: str, epoch: int, epochs: int, batches: int) -> None:
        if not (self.shown and sys.stderr.isatty()):
            return
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return
        self.bar = tqdm(total=batches, desc=f"{title}, epoch {epoch + 1}/{epochs}", leave=False, dynamic_ncols=True)
        self.bar.set_postfix(self.postfix)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def end_epoch(self, loss: float, accuracy: float, capacity: float) -> None:
        self.postfix = {"loss": f"{loss:.3f}", "val": f"{accuracy:.2%}", "used": f"{capacity:.1%}"}
        self.close()

    def end_task(self, line: str) -> None:
        self.postfix = {}
        self.write(line)

    def write(self, line: str) -> None:
        self.close()
        if self.shown:
            print(line, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
