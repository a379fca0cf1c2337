"""The code of a page: `python -m tests.pages PAGE` runs it as a reader would, from top to bottom, in one process.

A page has three kinds of blocks. A `python` block is run; what a comment `# prints: TEXT` promises has to be printed.
In a `sh` block, a `hat` command whose comment speaks of seconds is run. Every other command is only checked: there is
such a command, and it has such options. A `text` block is no code.
"""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = ("python", "sh", "text")


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its lines, and the number of the first of them in the page."""

    kind: str
    lines: tuple[str, ...]
    number: int

    def commands(self) -> Iterator[tuple[list[str], str]]:
        """Every command of a shell block in words, and its comment."""
        for line in self.lines:
            command, _, comment = line.partition("#")
            if command.strip():
                yield shlex.split(command), comment.strip()


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: a block of another kind, one without an end, or code that is only indented.
    """
    blocks: list[Block] = []
    lines = page.splitlines()
    begin, kind = 0, ""
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            if not kind and line.startswith("    ") and not lines[number - 2].strip():
                raise ValueError(f"line {number}: expected code between ``` marks, got an indented line")
        elif kind:
            blocks.append(Block(kind, tuple(lines[begin : number - 1]), begin + 1))
            kind = ""
        else:
            begin, kind = number, line[3:].strip()
            if kind not in KINDS:
                raise ValueError(f"line {number}: expected a block of {KINDS}, got {kind!r}")
    if kind:
        raise ValueError(f"line {begin}: expected a block with an end, got none")
    return blocks


def is_run(words: list[str], comment: str) -> bool:
    """A command that the page says takes seconds."""
    return words[0] == "hat" and "second" in comment


def check(words: list[str]) -> None:
    """Raise ValueError unless a reader could give this command."""
    program, *arguments = words
    if program == "hat":
        _check_hat(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if not set(arguments) <= set(targets):
            raise ValueError(f"make: expected targets of {targets}, got {arguments}")
    elif program == "python" and arguments[0] == "-m":
        if importlib.util.find_spec(arguments[1]) is None:
            raise ValueError(f"python -m: expected a module, got {arguments[1]}")
    elif program == "python":
        if not (ROOT / arguments[0]).is_file():
            raise ValueError(f"python: expected a file, got {arguments[0]}")
    elif words[:2] == ["pip", "install"]:
        _check_pip(arguments[1:])
    else:
        raise ValueError(f"expected hat, make, python or pip install, got {program}")


def _check_hat(arguments: list[str]) -> None:
    from hat.cli.options import make_spec
    from hat.cli.parser import make_parser

    try:
        options = make_parser().parse_args(arguments)
    except SystemExit as stop:
        raise ValueError(f"hat {shlex.join(arguments)}: expected a command that is understood") from stop
    if options.command == "train" and not hasattr(options, "resume"):
        make_spec(options)


def _check_pip(arguments: list[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"\[([a-z,]+)\]", " ".join(arguments)):
        missing = [name for name in extras.split(",") if not re.search(rf"^{name} = \[", project, re.MULTILINE)]
        if missing:
            raise ValueError(f"pip install: expected extras of pyproject.toml, got {missing}")


def run(page: Path) -> str:
    """Run all that a page shows, and return what it prints.

    Raises:
        ValueError: a block is not as it should be, a command is refused, or a promised line is not printed.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    printed = io.StringIO()
    for block in blocks_of(page.read_text()):
        source = "\n" * (block.number - 1) + "\n".join(block.lines)  # so that a traceback names the line of the page
        with redirect_stdout(printed):
            if block.kind == "python":
                exec(compile(source, str(page), "exec"), names)
            elif block.kind == "sh":
                _run_commands(block)
        for promised in re.findall(r"# prints: (.+)", source):
            if promised not in printed.getvalue():
                raise ValueError(f"{page.name}: expected {promised!r} to be printed, got {printed.getvalue()}")
    return printed.getvalue()


def _run_commands(block: Block) -> None:
    from hat.cli import main

    for words, comment in block.commands():
        check(words)
        if is_run(words, comment) and main(words[1:]):
            raise ValueError(f"line {block.number}: expected {shlex.join(words)} to succeed, got an error")


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    print(run(Path(sys.argv[1])))
