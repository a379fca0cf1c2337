"""Modules that are what a class of `torch.nn` is, whatever they are called."""

from __future__ import annotations

from torch import nn

_FREE = {"extra_repr", "reset_parameters"}


def known_type(module: nn.Module) -> type[nn.Module]:
    """The class of `torch.nn` that says what a module computes; its own type where it overrides anything of that.

    A class that only chooses arguments, as a layer norm without a bias does, computes what its parent does.
    """
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch.nn.modules"):
            return cls
        own = {name for name in vars(cls) if not name.startswith("__")}
        if any(hasattr(nn.Module, name) or _in_parents(cls, name) for name in own - _FREE):
            break
    return type(module)


def _in_parents(cls: type, name: str) -> bool:
    return any(name in vars(parent) for parent in cls.__mro__[1:])
