"""Call every public callable with wrong types and values: `python -m tests.fuzz`. Findings can be played again."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator

import torch

from tests.fuzz.callables import Target, find
from tests.fuzz.play import Change, Finding, changes_of, play

_MEMORY = 8 * 2**30


def calls(seed: int, count: int, only: str = "") -> Iterator[tuple[Target, tuple[Change, ...]]]:
    """Calls in turn over all callables whose name starts with `only`; every fifth has two wrong arguments."""
    draw = random.Random(seed)
    targets = [target for name, target in find().items() if name.startswith(only)]
    pools = {target.name: list(changes_of(target)) for target in targets}
    for pool in pools.values():
        draw.shuffle(pool)
    for number in range(count):
        target, turn = targets[number % len(targets)], number // len(targets)
        pool = pools[target.name]
        change = pool[turn % len(pool)]
        more = [other for other in draw.sample(pool, 1) if other.argument != change.argument]
        yield target, (change, *(more if turn % 5 == 4 or turn >= len(pool) else []))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 if anything was found, otherwise 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the start of the names of callables, for example hat.optim")
    parser.add_argument("--replay", nargs="+", metavar="NAME", help="a callable, then ARGUMENT=VALUE ...")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    started = time.perf_counter()
    if options.replay:
        name, *changes = options.replay
        wanted = [(find()[name], tuple(Change(*text.split("=", 1)) for text in changes))]
    else:
        wanted = list(calls(options.seed, options.calls, options.only))
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for target, changes in wanted:
            finding = play(target, changes)
            if finding is not None:
                findings.append(finding)
                print(finding, flush=True)
        os.chdir("/")
    by_target = Counter(finding.target for finding in findings)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"calls": len(wanted), "findings": len(findings), "by callable": by_target, "seconds": seconds}))
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
