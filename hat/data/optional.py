"""Import packages of the `data` extra when they are used."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, purpose: str) -> Any:
    """Import a module of a package that may not be installed.

    Args:
        module: name of the module.
        purpose: what needs the module, for the message.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{purpose} needs {package}: pip install 'hat-kernels[data]'") from error
