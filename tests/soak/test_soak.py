"""A sample of the soak, and the soak itself: it finds what is broken, and makes it short."""

from __future__ import annotations

import random

import pytest
import torch

from tests.soak import runs
from tests.soak.actions import ACTIONS, Action
from tests.soak.killing import kill_and_resume
from tests.soak.sequences import Step, live, replay, shrunk
from tests.soak.world import World

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::hat.CapacityWarning")]
SEEDS = range(32)


@pytest.mark.parametrize("first", range(0, len(SEEDS), 8))
def test_finished_tasks_keep_their_answers_or_the_user_is_told(first: int) -> None:
    for seed in SEEDS[first : first + 8]:
        finding, _ = live(seed)
        assert finding is None, f"{finding.text}\n{shrunk(finding).command()}"


def test_a_killed_run_ends_like_one_that_is_not_killed() -> None:
    runs.warm_up()
    for train, ranks, number in ((runs.with_trainer, 1, 2), (runs.in_processes, runs.RANKS, 1)):
        killed = kill_and_resume(train, ranks=ranks, runs=number, seed=0)
        assert all(run.kills and not run.wrong for run in killed), killed


class Spoil(Action):
    """Writes into a head without telling the world."""

    weight = 0.0

    @torch.no_grad()
    def perform(self, world: World, rng: random.Random) -> None:
        world.model.heads[0].bias.add_(0.1)


def test_the_soak_finds_what_is_broken_and_makes_it_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIONS, "spoil", Spoil())
    names = ["mode", "begin", "train", "save", "end", "copy", "begin", "spoil"]
    finding = replay("mlp", [Step(name, seed) for seed, name in enumerate(names)])
    assert finding is not None
    assert finding.kind == "silent drift, spoil"
    shortest = shrunk(finding)
    assert [step.action for step in shortest.steps] == ["begin", "end", "spoil"]
    assert shortest.command() == "python -m tests.soak --replay mlp begin:1 end:4 spoil:7"


def test_a_sequence_is_the_same_again() -> None:
    (one, steps), (other, again) = live(3), live(3)
    assert steps == again
    assert (one is None) == (other is None)
