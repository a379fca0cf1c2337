"""The runs that are killed: one of `hat.Trainer`, and one of two processes in a loop that is written by hand."""

from __future__ import annotations

import functools
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import distributed, nn

import hat
from hat import checkpoint
from hat.training.rundir import RunDir
from tests.soak.world import answers

_CONFIG = hat.TrainConfig(epochs=3, lr_patience=1, momentum=0.9, weight_decay=1e-4, batch_size=10)
RANKS = 2
_TASKS, _STEPS, _BATCH, _CLASSES = 2, 12, 4, 3


def warm_up() -> None:
    """Load the data and import what a run imports, so that the forked processes need not."""
    with tempfile.TemporaryDirectory() as folder:
        with_trainer(Path(folder), 0, 0)


@functools.cache
def _stream() -> hat.data.Stream:
    return hat.data.permuted("digits", tasks=2, limit=20)


def with_trainer(folder: Path, rank: int, attempt: int) -> dict[str, Any]:
    """A run of `hat.Trainer`; see `tests.soak.killing.Train`."""
    torch.manual_seed(1)
    model = hat.HATModel(hat.models.mlp(64, (16, 12)))
    run = folder / "run"
    trainer = hat.Trainer(model, _stream(), _CONFIG, run_dir=run, progress=False)
    trainer.run(resume=RunDir(run).checkpoint.exists())
    return {
        "model": model.state_dict(),
        "accuracy": trainer.history.accuracy,
        "drift": trainer.history.drift,
        "epochs": [{name: row[name] for name in ("loss", "val_loss")} for row in trainer.history.epochs],
        "logits": trainer.learned,
    }


def in_processes(folder: Path, rank: int, attempt: int) -> dict[str, Any]:
    """A run of `RANKS` processes, with a checkpoint of `hat.checkpoint` after every other step."""
    store = distributed.FileStore(str(folder / f"store-{attempt}"), RANKS)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    torch.manual_seed(1)
    model = hat.HATModel(hat.models.mlp(8, (10, 8), input_dropout=0.0, dropout=0.0))
    file = folder / "checkpoint.pt"
    saved = checkpoint.load(file) if file.exists() else {"steps": 0, "optimizer": None}
    if "model" in saved:
        model.load_state_dict(saved["model"])
    state, optimizer = saved["optimizer"], None
    for number in range(saved["steps"], _TASKS * _STEPS):
        if not model.learning:
            torch.manual_seed(number)
            model.begin_task(_CLASSES)
        if optimizer is None:
            replica = nn.parallel.DistributedDataParallel(model)
            optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9)
            if state is not None:
                optimizer.load_state_dict(state)
        _train_step(model, replica, optimizer, number, rank)
        if number % _STEPS == _STEPS - 1:
            model.end_task()
            optimizer = state = None
        if rank == 0 and number % 2:
            state_now = None if optimizer is None else optimizer.state_dict()
            checkpoint.save(file, {"steps": number + 1, "model": model.state_dict(), "optimizer": state_now})
    logits = [promise.logits[torch.float32] for promise in answers(model, model.remembered, (8,)).values()]
    distributed.barrier()  # a process that leaves early would break the connection of the other
    return {"model": model.state_dict(), "logits": logits}


def _train_step(
    model: hat.HATModel, replica: nn.Module, optimizer: torch.optim.Optimizer, number: int, rank: int
) -> None:
    """A step on samples of this process."""
    generator = torch.Generator().manual_seed(RANKS * number + rank)
    x = torch.randn(_BATCH, 8, generator=generator)
    y = torch.randint(_CLASSES, (_BATCH,), generator=generator)
    model.train().anneal(number % _STEPS / (_STEPS - 1))
    optimizer.zero_grad()
    (F.cross_entropy(replica(x), y) + 0.1 * model.penalty()).backward()
    optimizer.step()
