"""The parser of the command line. It checks the words before `argparse` reads them.

The messages of `argparse` do not say what was got, and they differ between versions of Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from hat.arguments import got
from hat.cli.values import Kind, either, suggestion
from hat.data.loading import is_name

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|infinity|nan)$", re.IGNORECASE)


@dataclass
class _Given:
    """An option as the user typed it, and the words that follow."""

    word: str
    values: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.word.partition("=")[0]

    @property
    def attached(self) -> bool:
        """Whether the option was typed as `--name=value`."""
        return "=" in self.word

    @property
    def after(self) -> list[str]:
        """The values that the user gave to the option."""
        return [self.word.partition("=")[2]] if self.attached else self.values


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: the option, what was expected, what was got."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = _NEGATIVE  # argparse takes -1e-3 for an option
        self.commands: Mapping[str, Parser] = {}

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument. See `argparse.ArgumentParser.add_argument`; the help shows a `Kind` by its metavar."""
        if isinstance(options.get("type"), Kind):
            options.setdefault("metavar", options["type"].metavar)
        return super().add_argument(*names, **options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The arguments. See `argparse.ArgumentParser.parse_args`.

        Raises:
            SystemExit: with status 0 after `--help`; with status 2 after an error.
        """
        words = list(sys.argv[1:] if args is None else args)
        if self.commands:
            self._check_command(words[:1])
            if words[0] in self.commands:
                self.commands[words[0]]._check(words[1:], self.commands)
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print a message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message.removeprefix('argument ')}\n")

    def _check_command(self, first: Sequence[str]) -> None:
        expected = f"COMMAND: expected {either(list(self.commands))}, got"
        if not first:
            self.error(f"{expected} none; {self.prog} --help explains them")
        word = first[0]
        if word in self.commands or word in self._option_string_actions:
            return
        takers = [name for name, parser in self.commands.items() if word in parser._option_string_actions]
        advice = suggestion(word, list(self.commands)) or f"; {self.prog} --help explains them"
        if takers:
            advice = f"; the command comes before its options, as in {self.prog} {takers[0]} {word}"
        self.error(f"{expected} {got(word)}{advice}")

    def _check(self, words: Sequence[str], commands: Mapping[str, Parser]) -> None:
        """Check that every option is known and has as many values as it takes, and that no word is left over."""
        loose, options = self._grouped(words)
        if any(self._matches(option.name) in (["-h"], ["--help"]) for option in options):
            self.print_help()
            self.exit()
        used: list[tuple[_Given, argparse.Action]] = []
        for number, option in enumerate(options):
            action = self._action(option.name, commands)
            following = options[number + 1] if number + 1 < len(options) else None
            if len(option.after) < _least(action):
                if following is not None and following.name.startswith("--"):
                    self._action(following.name, commands)  # a misspelled option is the fault, not the missing value
                self._refuse_count(option, action, following)
            if action.nargs == 0 and option.attached:
                self.error(f"{got(option.name)[1:-1]}: expected no value, got {got(option.after[0])}")
            used.append((option, action))
        self._check_loose(loose, used)
        for action in self._actions:
            if action.required and action.option_strings and action not in [action for _, action in used]:
                self.error(f"{action.option_strings[0]}: expected {_expected(action)}, got none")

    def _grouped(self, words: Sequence[str]) -> tuple[list[str], list[_Given]]:
        """The words before the first option, and the options with the words after them."""
        loose: list[str] = []
        options: list[_Given] = []
        for number, word in enumerate(words):
            if word == "--":  # where there are no positional arguments, it is a word that belongs to no option
                positionals = any(not action.option_strings for action in self._actions)
                return loose + list(words[number + positionals :]), options
            if self._is_option(word):
                options.append(_Given(word))
            else:
                (options[-1].values if options else loose).append(word)
        return loose, options

    def _is_option(self, word: str) -> bool:
        if len(word) < 2 or word[0] != "-" or _NEGATIVE.match(word):
            return False
        return bool(self._matches(word.partition("=")[0])) or " " not in word

    def _matches(self, name: str) -> list[str]:
        """The options that a word may stand for: itself, or all that begin with it."""
        known = self._option_string_actions
        return [name] if name in known else [option for option in known if name[:2] == "--" and option.startswith(name)]

    def _action(self, name: str, commands: Mapping[str, Parser]) -> argparse.Action:
        matches, known = self._matches(name), self._option_string_actions
        shown = got(name)[1:-1]
        if len(matches) > 1:
            some = ", ".join(matches[:6]) + ", ..." * (len(matches) > 6)
            self.error(f"{shown}: expected the whole name of an option, got the beginning of {some}")
        if not matches:
            takers = [parser.prog for parser in commands.values() if name in parser._option_string_actions]
            kind = f"an option of {' and '.join(takers)}" if takers else "an unknown one"
            similar = "" if takers else suggestion(name, [option for option in known if option.startswith("--")])
            advice = similar or f"; {self.prog} --help lists all"
            self.error(f"{shown}: expected an option of {self.prog}, got {kind}{advice}")
        return known[matches[0]]

    def _refuse_count(self, option: _Given, action: argparse.Action, following: _Given | None) -> NoReturn:
        """Refuse an option with too few values."""
        expected = _expected(action) if _least(action) == 1 else f"{_least(action)} values"
        found = " ".join(map(got, option.after)) or "none"
        if following is not None and not option.after and not self._matches(following.name):
            found = f"{got(following.word)}; write = between an option and a value that begins with -"
        self.error(f"{got(option.name)[1:-1]}: expected {expected}, got {found}")

    def _check_loose(self, loose: list[str], used: list[tuple[_Given, argparse.Action]]) -> None:
        """Check the words that belong to no option: there must be one for each positional argument."""
        positionals = [action for action in self._actions if not action.option_strings]
        words = loose + [word for option, action in used for word in _left(option, action)]
        if len(words) < len(positionals):
            missing = positionals[len(words)]
            takers = [option.name for option, action in used if action.nargs == "+"]
            advice = f"; all words after {takers[-1]} belong to it" if takers else ""
            self.error(f"{missing.metavar}: expected {_expected(missing)}, got none{advice}")
        if len(words) == len(positionals):
            return
        option, action = next(((option, action) for option, action in used if _left(option, action)), (None, None))
        if option is None or action is None or action.nargs == 0 or len(loose) > len(positionals):
            self._refuse_words(positionals, words)
        count = "one value" if _least(action) == 1 else f"{_least(action)} values"
        values = option.after + option.values if option.attached else option.values
        self.error(f"{got(option.name)[1:-1]}: expected {count}, got {' '.join(map(got, values))}")

    def _refuse_words(self, positionals: Sequence[argparse.Action], words: Sequence[str]) -> NoReturn:
        if positionals:
            self.error(f"{positionals[0].metavar}: expected one folder, got {' '.join(map(got, words))}")
        is_dataset = "--dataset" in self._option_string_actions and is_name(words[0])
        advice = f"; did you mean --dataset {words[0]}?" if is_dataset else f"; {self.prog} --help lists all"
        self.error(f"{got(words[0])}: expected an option of {self.prog}, got a word that belongs to none{advice}")


def _expected(action: argparse.Action) -> str:
    return str(getattr(action.type, "expected", "a value"))


def _least(action: argparse.Action) -> int:
    """How many values an option takes, at least."""
    return action.nargs if isinstance(action.nargs, int) else 1


def _left(option: _Given, action: argparse.Action) -> list[str]:
    """The words after an option that are not its values."""
    if option.attached:
        return option.values
    return [] if action.nargs == "+" else option.values[_least(action) :]
