"""The text of the progress bar while an epoch runs."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from hat.training.progress import Progress


class Bar:
    """Replaces the bar of tqdm, and draws at every second batch."""

    def __init__(self, **options: Any) -> None:
        self.options, self.count, self.shown = options, 0, [{}]

    def update(self) -> bool:
        self.count += 1
        return self.count % 2 == 0

    def set_postfix(self, values: dict[str, str]) -> None:
        self.shown.append(values)

    def close(self) -> None:
        pass


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    return Progress(True)


def test_bar_shows_the_mean_loss_of_the_epoch_so_far(progress: Progress) -> None:
    progress.start_epoch("task", 0, 2, 4)
    bar = progress.bar
    for total in (2.0, 3.0, 9.0, 10.0):
        progress.advance(torch.tensor(total))
    assert bar.shown[-2:] == [{"loss": "1.500"}, {"loss": "2.500"}]
    progress.end_epoch(0.5, 0.25)
    progress.start_epoch("task", 1, 2, 4)
    bar = progress.bar
    assert bar.shown[-1] == {"val": "50.00%", "used": "25.0%"}
    for total in (1.0, 1.0):
        progress.advance(torch.tensor(total))
    assert bar.shown[-1] == {"loss": "0.500", "val": "50.00%", "used": "25.0%"}


def test_loss_is_read_only_when_the_bar_is_drawn(progress: Progress) -> None:
    class Unread(torch.Tensor):
        def item(self) -> float:
            raise AssertionError

    progress.start_epoch("task", 0, 1, 4)
    progress.advance(torch.zeros(()).as_subclass(Unread))
    progress.close()
    progress.advance(torch.zeros(()).as_subclass(Unread))
