"""`hat evaluate`: test the tasks of a run."""

from __future__ import annotations

import argparse

from hat import metrics
from hat.cli.errors import show
from hat.cli.stored import open_run
from hat.training import evaluate
from hat.verification.verify import ForgettingError, verify


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Test the learned tasks of a run, and compare every logit with its value right after the task was learned.

    Raises:
        ValueError: the folder holds no run, a file is damaged, no task is finished, or there is no such task.
        ForgettingError: in mode `binary`, something that finished tasks use has moved; the message names the tensor.
    """
    run = open_run(arguments.run_dir, data=arguments.data, device=arguments.device)
    tasks = run.finished_tasks(arguments.task)
    learned, now, drift = [], [], []
    for task in tasks:
        test = run.stream[task].test
        earlier = run.folder.load_logits(task, images=len(test), classes=len(run.stream[task].classes))
        result = evaluate(run.model, test, task, run.spec.training)
        learned.append(run.history.accuracy[task][task])
        now.append(result.accuracy)
        drift.append(result.drift_from(earlier))
    show(metrics.table([run.stream[task].name for task in tasks], learned, now))
    print(f"\nlargest logit drift {max(drift):g}")
    verification = verify(run.model)
    if verification.moved is not None and run.model.config.mask_mode == "binary":
        raise ForgettingError(
            f"{run.folder.path}: {verification.kind} {verification.moved} has moved since it was locked", verification
        )
