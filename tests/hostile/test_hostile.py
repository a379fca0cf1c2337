"""No file of these kinds does harm: each is read, or refused in one line that names it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.hostile import all_kinds
from tests.hostile.watching import watch

KINDS = all_kinds()
STEPS = {"json": 60, "run": 27, "state": 10, "model": 10, "fit": 8, "pickle": 2, "checkpoint": 2}
"""Of these formats, every n-th kind is read here; `python -m tests.hostile` reads all kinds."""


def test_names_are_different() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 120


def test_a_hostile_file_is_refused_in_one_line_and_does_no_harm(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    chosen = []
    for kind in KINDS:
        format_name = kind.name.partition("/")[0]
        counts[format_name] += 1
        if counts[format_name] % STEPS.get(format_name, 1) == 0:
            chosen.append(kind)
    wrong = {kind.name: text for kind, result in watch(chosen, tmp_path) if (text := result.wrong(kind))}
    assert not wrong
