"""Find every public callable: functions, constructors, methods and properties that can be set."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

MODULES = (
    *("hat", "hat_kernels", "hat.data", "hat.models", "hat.optim", "hat.metrics", "hat.plots", "hat.training"),
    "hat.checkpoint",
)
RECORDS = {
    *("hat.AxisForecast", "hat.AxisSummary", "hat.Forecast", "hat.Summary", "hat.TaskUnits", "hat.TrainResult"),
    *("hat.Verification", "hat.WeightsKept", "hat.StepLoss", "hat.Report", "hat.data.SourceStatus"),
    *("hat.Probes", "hat.training.Evaluation", "hat.Along", "hat_kernels.GateForm", "hat_kernels.Lock"),
}
"""Classes that hold what a function returns, or what a function checks when it gets them: they keep what they get."""

INTERNAL = {"hat.metrics.as_tensor", "hat.metrics.fractions", "hat.metrics.learned_part"}
"""Functions for other rooms, not for users: one argument is the name of another argument, for the message."""


class Target(NamedTuple):
    """A public callable.

    Attributes:
        name: where a user finds it, for example `hat.HATModel.begin_task`.
        owner: the class of a method or of a property; None for a function or a constructor.
        parameters: what may be given, without `self`.
        sets: it is a property, and the one argument `value` sets it.
    """

    name: str
    owner: type | None
    parameters: dict[str, inspect.Parameter]
    sets: bool = False

    @property
    def attribute(self) -> str:
        return self.name.rpartition(".")[2]

    def of(self, instance: Any) -> Callable[..., Any]:
        """The callable itself, bound to an instance if it is a method."""
        if self.owner is None:
            module, _, name = self.name.rpartition(".")
            return getattr(importlib.import_module(module), name)
        return (
            (lambda value: setattr(instance, self.attribute, value)) if self.sets else getattr(instance, self.attribute)
        )


def find() -> dict[str, Target]:
    """All public callables by name. A function that several classes inherit is found once."""
    targets: dict[str, Target] = {}
    seen: set[int] = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in names_of(module):
            value = getattr(module, name)
            if isinstance(value, ModuleType) or not callable(value) or id(value) in seen:
                continue
            seen.add(id(value))
            full_name = f"{module_name}.{name}"
            if full_name in INTERNAL:
                continue
            if not inspect.isclass(value):
                targets[full_name] = Target(full_name, None, dict(inspect.signature(value).parameters))
            elif not issubclass(value, BaseException):
                if full_name not in RECORDS:
                    targets[full_name] = Target(full_name, None, dict(inspect.signature(value).parameters))
                targets |= {target.name: target for target in _methods(value, full_name, seen)}
    return targets


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module: `__all__`, or what is defined in it."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return sorted(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def _methods(owner: type, prefix: str, seen: set[int]) -> Iterator[Target]:
    names = [name for name in dir(owner) if not name.startswith("_")]
    for name in (*names, *(["__call__"] if "__call__" in vars(owner) else [])):
        value = inspect.getattr_static(owner, name)
        defined_in = next(base for base in owner.__mro__ if name in vars(base))
        if not defined_in.__module__.startswith("hat") or inspect.isclass(value):
            continue
        function = value.fset if isinstance(value, property) else getattr(value, "__func__", value)
        if not inspect.isfunction(function) or id(function) in seen:
            continue
        seen.add(id(function))
        if isinstance(value, property):
            parameter = list(inspect.signature(function).parameters.values())[1].replace(name="value")
            yield Target(f"{prefix}.{name}", owner, {"value": parameter}, sets=True)
        else:
            bound = value if isinstance(value, staticmethod) else inspect.signature(function)
            parameters = dict((inspect.signature(function) if isinstance(value, staticmethod) else bound).parameters)
            if not isinstance(value, staticmethod):
                del parameters[next(iter(parameters))]
            yield Target(f"{prefix}.{name}", owner, parameters)
