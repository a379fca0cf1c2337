"""Saying where in a network something is."""

from __future__ import annotations

import os
import sys
import traceback

import torch
from torch import nn

_OWN = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<")


def described(name: str, module: nn.Module, file: str = "", line: int = 0) -> str:
    """A module and, where it is known, the line that is running."""
    where = f", {os.path.basename(file)}:{line}" if file else ""
    return f"{name or 'the network'} ({type(module).__name__}{where})"


def here(name: str, module: nn.Module) -> str:
    """The line outside torch and this package that is running."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return described(name, module, frame.f_code.co_filename, frame.f_lineno)


def of(error: BaseException, name: str, module: nn.Module) -> str:
    """The last line outside torch and this package that an error came through."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return described(name, module, *next((each for each in lines[::-1] if not each[0].startswith(_OWN)), lines[-1]))
