"""Random words: whatever is wrong with them, the message is one line of ours, and never one of argparse."""

from __future__ import annotations

import argparse
import random

import pytest

from hat.cli import command
from hat.cli.options import make_spec
from hat.cli.parser import make_parser
from tests.hat.cli.test_wrong_lines import check_text

VALUES = (
    *("1", "0", "-1", "-1e-3", "-inf", "nan", "x", "", "run", "mnist", "auto", "cpu", "joint", "pt2", "1" * 30, "3 4"),
    *("--", "-", "---", "=", "--=", "-x", "-x y", "--lr 3", "--hid", "--h", "--no-graph", "--traceba"),
    *("\u00fcn\u00ef", "\x1b[0m", "\udcff", "\u202e", "a\nb", "\0"),
)


def check(arguments: argparse.Namespace) -> None:
    """Do what a command does first, and nothing more."""
    if arguments.command in ("train", "compress") and not hasattr(arguments, "resume"):
        make_spec(arguments)


def word(options: list[str], draw: random.Random) -> str:
    option = draw.choice(options)
    return draw.choice(
        (
            option,
            option[: draw.randint(1, len(option))],
            f"{option}={draw.choice(VALUES)}",
            option.replace(draw.choice(option), draw.choice("abc-=")),
            draw.choice(VALUES),
            draw.choice(VALUES),
        )
    )


def test_random_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser()
    for of_command in parser.commands.values():
        of_command.set_defaults(run=check)
    monkeypatch.setattr(command, "make_parser", lambda: parser)
    known = {option for of_command in parser.commands.values() for option in of_command._option_string_actions}
    options = sorted(known - {"-h", "--help", "--traceback"})
    draw, statuses = random.Random(0), set()
    for _ in range(1000):
        words = [word(options, draw) for _ in range(draw.randint(0, 6))]
        line = [draw.choice([*parser.commands, "fly"]), *["run"] * draw.randint(0, 1), *words]
        if any(text.startswith("--t") and "--traceback".startswith(text) for text in line):
            continue
        try:
            status: object = command.run(line)
        except SystemExit as stop:
            status = stop.code
        statuses.add(status)
        printed = capsys.readouterr()
        if status == 2:
            check_text(printed.err)
    assert statuses == {0, 2}
