"""What a model knows to be frozen: parameters that no task trains any more, whatever `requires_grad` says.

Anybody may change `requires_grad`: `model.requires_grad_(True)` after a linear probe switches it on everywhere. So the
optimizers ask the record of the model. `requires_grad` only saves the work for gradients that nobody needs.

Example: a body with a parameter `scale` along no gate, and with a `table` along no gate that the user has frozen.

    before the first task ends      the record is empty, tasks train `scale`
    after the first task            scale, table and the head of task 0; the library has switched off scale and the head
    `model.requires_grad_(True)`    the record is the same: no optimizer moves any of them
    after `hat.forget(model, 0)`    the record is empty, and the library switches on what it has switched off: scale
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from operator import attrgetter
from typing import Any

from torch import Tensor

from hat.units.gate import Gate

_NEEDS_GRADIENT = attrgetter("requires_grad")


class Frozen:
    """The parameters that no task may train any more.

    Attributes:
        parameters: the frozen parameters by their `id`. Every step asks for them, and an `id` is found without a call
            of Python code.
    """

    def __init__(self) -> None:
        self.parameters: dict[int, Tensor] = {}
        self._switched_off: dict[int, Tensor] = {}

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Freeze more parameters, and switch off their gradients.

        Gradients that they still have are dropped, because weight decay and momentum would follow them.
        """
        for parameter in parameters:
            if parameter.requires_grad and id(parameter) not in self.parameters:
                self._switched_off[id(parameter)] = parameter
            self.parameters[id(parameter)] = parameter
            parameter.requires_grad_(False)
            parameter.grad = None

    def switch_off(self) -> None:
        """Switch off the gradients of all frozen parameters, in case the user has switched them on."""
        # No Python code runs for a parameter that is off, so that the time hardly grows with the number of tasks.
        frozen = self.parameters.values()
        self.add(list(compress(frozen, map(_NEEDS_GRADIENT, frozen))))

    def become(self, parameters: Iterable[Tensor]) -> None:
        """Freeze exactly these parameters. Gradients that this record has switched off before are switched on again."""
        by_id = {id(parameter): parameter for parameter in parameters}
        for key in self.parameters.keys() - by_id.keys():
            del self.parameters[key]
            if key in self._switched_off:
                self._switched_off.pop(key).requires_grad_(True)
        self.add(by_id.values())

    def by_user(self, parameter: Tensor) -> bool:
        """Whether the user has frozen a parameter: before this record did, if the record has it."""
        if id(parameter) in self.parameters:
            return id(parameter) not in self._switched_off
        return not parameter.requires_grad

    def __getstate__(self) -> dict[str, Any]:
        return {name: list(by_id.values()) for name, by_id in vars(self).items()}  # a copy has other ids

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, tensors in state.items():
            setattr(self, name, {id(tensor): tensor for tensor in tensors})


def keep_frozen_in_place(gates: Iterable[Gate]) -> None:
    """Let the units of a gate keep their places if a parameter along the gate is frozen by the user.

    Such a parameter comes from elsewhere, as the base under LoRA adapters, and must stay as it came: adapters that are
    saved alone fit to the base in its first order.
    """
    for gate in gates:
        along = [member.parameter for member in gate.members]
        gate.keeps_places = any(parameter is not None and not parameter.requires_grad for parameter in along)
