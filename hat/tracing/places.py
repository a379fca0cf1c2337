"""Places in a network, as text for messages: the name and class of a module, and the line that is running.

Example: `"layer1.0 (BasicBlock, resnet.py:97)"`.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import AbstractContextManager

import torch
from torch import nn

from hat.tracing.errors import refused, told

_CONVERSION = os.path.join(os.path.dirname(os.path.dirname(__file__)), "conversion") + os.sep
OWN = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<")


def described(name: str, module: nn.Module, file: str = "", line: int = 0) -> str:
    """The name and class of a module, and the running line if `file` is given."""
    place = f", {os.path.basename(file)}:{line}" if file else ""
    return f"{name or 'the network'} ({type(module).__name__}{place})"


def running_line(name: str, module: nn.Module) -> str:
    """The module, and the line outside torch and this package that is running, if there is one."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    file = frame.f_code.co_filename
    return described(name, module, "" if file.startswith(_CONVERSION) else file, frame.f_lineno)


def line_of(error: BaseException, name: str, module: nn.Module) -> str:
    """The module, and the innermost line outside torch and this package that an error came through."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = (*OWN, _CONVERSION)
    return described(name, module, *next((place for place in lines[::-1] if not place[0].startswith(own)), ("", 0)))


def explained(module: nn.Module) -> AbstractContextManager[None]:
    """Turn any error inside the `with` block into a `ConversionError` that names the line where the network fails."""
    return refused(lambda error: f"{line_of(error, '', module)}: {told(error)}")
