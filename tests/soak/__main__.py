"""`python -m tests.soak`: random lives of small models, and runs that are killed. Findings can be played again.

`python -m tests.soak --replay NETWORK ACTION:SEED ...` plays one sequence, as a finding prints it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from tests.soak import runs
from tests.soak.actions import ACTIONS
from tests.soak.killing import kill_and_resume
from tests.soak.sequences import Finding, Step, live, replay, shrunk

_SHOWN = 400  # characters of a message


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 if anything was found, otherwise 0."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    if options.replay:
        return _replay(options.replay[0], options.replay[1:])
    started = time.perf_counter()
    for name in options.without:
        ACTIONS.pop(name), ACTIONS.pop(f"stop-{name}", None)
    summary, wrong = _lives(range(options.seed, options.seed + options.sequences), options.jobs)
    runs.warm_up()
    for name, train, ranks, number in (
        ("killed runs of the trainer", runs.with_trainer, 1, options.kills),
        ("killed runs of two processes", runs.in_processes, runs.RANKS, options.pairs),
    ):
        killed = kill_and_resume(train, ranks=ranks, runs=number, seed=options.seed)
        for run in killed:
            if run.wrong:
                print(f"{name}: after {run.kills} kills: {run.wrong}")
        exact = sum(not run.wrong for run in killed)
        summary |= {name: f"{exact} of {number} exact, {sum(run.kills for run in killed)} kills"}
        wrong |= exact < number
    print(json.dumps(summary | {"seconds": round(time.perf_counter() - started, 1)}, indent=1))
    return int(wrong)


def _lives(seeds: range, jobs: int) -> tuple[dict[str, Any], bool]:
    """Play the sequences of these seeds, and print what is found. Returns a summary, and whether anything is wrong."""
    actions: Counter[str] = Counter()
    findings: dict[str, list[tuple[int, Finding]]] = {}
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:  # raises if a process crashes
        for seed, (finding, steps) in zip(seeds, pool.map(live, seeds, chunksize=4), strict=True):
            actions.update(step.action for step in steps)
            if finding is not None:
                findings.setdefault(finding.kind, []).append((seed, finding))
    for kind, found in sorted(findings.items(), key=lambda item: -len(item[1])):
        finding = shrunk(min((finding for _, finding in found), key=lambda finding: len(finding.steps)))
        print(f"{len(found)} x {kind}; seeds {[seed for seed, _ in found[:8]]}")
        print(f"  {finding.text[:_SHOWN]}\n  {finding.command()}\n", flush=True)
    counts = {kind: len(found) for kind, found in findings.items()}
    return {"sequences": len(seeds), "actions": dict(actions.most_common()), "findings": counts}, bool(findings)


def _replay(network: str, steps: list[str]) -> int:
    finding = replay(network, [Step(action, int(seed)) for action, seed in (step.split(":") for step in steps)])
    print("nothing is wrong" if finding is None else f"{finding.text}\n{finding.command()}")
    return int(finding is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first sequence; the next one has the next seed")
    parser.add_argument("--kills", type=int, default=150, help="runs of the trainer that are killed and resumed")
    parser.add_argument("--pairs", type=int, default=30, help="runs of two processes that are killed and resumed")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--without", nargs="*", default=[], metavar="ACTION", help="actions that are left out")
    parser.add_argument("--replay", nargs="+", metavar="WORD", help="a network and its steps, ACTION:SEED")
    return parser


if __name__ == "__main__":
    sys.exit(main())
