"""Sequences of actions: drawn, played, shrunk, and read from a line of text."""

from __future__ import annotations

import random
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.soak.actions import ACTIONS
from tests.soak.networks import NETWORKS
from tests.soak.world import Broken, World

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 22


@dataclass(frozen=True)
class Step:
    """One action of a sequence; `seed` is of everything random in it."""

    action: str
    seed: int

    def __str__(self) -> str:
        return f"{self.action}:{self.seed}"


@dataclass(frozen=True)
class Finding:
    """A broken promise, or an error that the library should not give.

    Attributes:
        kind: findings of one kind are counted together.
        text: what happened.
        network: the name of the kind of network.
        steps: the sequence up to the finding.
    """

    kind: str
    text: str
    network: str
    steps: tuple[Step, ...]

    def command(self) -> str:
        """The command that shows the finding again."""
        return f"python -m tests.soak --replay {self.network} {' '.join(map(str, self.steps))}"


def live(seed: int) -> tuple[Finding | None, list[Step]]:
    """Draw a sequence and play it. Returns the finding, if any, and the steps that were taken."""
    rng = random.Random(seed)
    network, length = rng.choice(list(NETWORKS)), rng.randint(8, _LONGEST)
    taken: list[Step] = []

    def draw(world: World) -> Step | None:
        if len(taken) == length + 2:
            return None
        if len(taken) >= length:  # whatever is untold at the end is told when a task ends
            action = "end" if world.model.learning else "begin"
        else:
            possible = [name for name, action in ACTIONS.items() if action.possible(world)]
            (action,) = rng.choices(possible, [ACTIONS[name].weight for name in possible])
        taken.append(Step(action, rng.randrange(10_000)))
        return taken[-1]

    return _play(network, draw), taken


def replay(network: str, steps: list[Step]) -> Finding | None:
    """Play a given sequence. Actions that make no sense where they stand are left out."""
    left = list(reversed(steps))
    return _play(network, lambda world: left.pop() if left else None)


def shrunk(finding: Finding) -> Finding:
    """The finding with fewer steps: steps are dropped for as long as a finding of the same kind remains."""
    index = len(finding.steps) - 1
    while index >= 0:
        steps = [step for position, step in enumerate(finding.steps) if position != index]
        shorter = replay(finding.network, steps)
        if shorter is not None and shorter.kind == finding.kind:
            finding = shorter
        index = min(index, len(finding.steps)) - 1
    return finding


def _play(network: str, choose: Callable[[World], Step | None]) -> Finding | None:
    """Play a sequence, one step after another as `choose` says, to the first finding."""
    torch.set_grad_enabled(True)  # whatever a sequence before this one has done
    world, taken = World(network), []
    while (step := choose(world)) is not None:
        if not ACTIONS[step.action].possible(world):
            continue
        taken.append(step)
        try:
            _take(world, step)
        except Broken as broken:
            return Finding(f"{broken.kind}, {step.action}", str(broken), network, tuple(taken))
        except Exception as error:
            kind = f"{type(error).__name__} in {step.action} ({_place(error)})"
            return Finding(kind, f"{kind}: {error}", network, tuple(taken))
    return None


def _take(world: World, step: Step) -> None:
    """Take one step, and compare all finished tasks with their promises."""
    action = ACTIONS[step.action]
    torch.manual_seed(step.seed)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            action.perform(world, random.Random(step.seed))
        except Broken:
            raise
        except Exception as error:
            if not action.refuses(error):
                raise
        world.check(list(said))


def _place(error: Exception) -> str:
    """The innermost line of the library in the traceback of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/hat" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}"
