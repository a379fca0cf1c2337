"""Which class of `torch.nn` says what a module computes."""

from __future__ import annotations

from torch import nn

_HARMLESS = {"extra_repr", "reset_parameters"}


def known_type(module: nn.Module) -> type[nn.Module]:
    """The class of `torch.nn` that says what a module computes.

    A class that only chooses arguments, as a layer norm without a bias, computes what its parent class computes, so
    the answer is the parent class. If the class of the module overrides something of its parents, the answer is the
    class itself.
    """
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch.nn.modules"):
            return cls
        defined = {name for name in vars(cls) if not name.startswith("__")}
        if any(hasattr(nn.Module, name) or _in_parents(cls, name) for name in defined - _HARMLESS):
            break
    return type(module)


def _in_parents(cls: type, name: str) -> bool:
    """Whether a parent class defines the name."""
    return any(name in vars(parent) for parent in cls.__mro__[1:])
