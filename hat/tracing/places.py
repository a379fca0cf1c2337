"""Places in a network, as text for messages: the name and class of a module, and the line that is running.

Example: `"layer1.0 (BasicBlock, resnet.py:97)"`.
"""

from __future__ import annotations

import os
import sys
import traceback

import torch
from torch import nn

OWN = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<")


def described(name: str, module: nn.Module, file: str = "", line: int = 0) -> str:
    """The name and class of a module, and the running line if `file` is given."""
    place = f", {os.path.basename(file)}:{line}" if file else ""
    return f"{name or 'the network'} ({type(module).__name__}{place})"


def running_line(name: str, module: nn.Module) -> str:
    """The module, and the line outside torch and this package that is running."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    return described(name, module, frame.f_code.co_filename, frame.f_lineno)


def line_of(error: BaseException, name: str, module: nn.Module) -> str:
    """The module, and the innermost line outside torch and this package that an error came through."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return described(name, module, *next((place for place in lines[::-1] if not place[0].startswith(OWN)), lines[-1]))
