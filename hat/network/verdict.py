"""What a check for forgetting has found: a `Verification`, and the error that carries one."""

from __future__ import annotations

import math
from dataclasses import dataclass


class ForgettingError(RuntimeError):
    """A finished task answers differently, or a locked element has moved.

    Attributes:
        verification: the result of `hat.verify`.
    """

    def __init__(self, message: str, verification: Verification) -> None:
        super().__init__(message)
        self.verification = verification


@dataclass(frozen=True)
class Verification:
    """The result of `hat.verify`.

    Attributes:
        drift: the largest absolute change of any logit, by task; inf if a logit became NaN or inf.
        moved: the name of the first thing that changed, or None. Parameters come first, in the order of the model, then
            buffers, then modules in the order in which they end. If no module inside the model changed but the logits
            did, the name is `"model"`.
        moved_by: the largest absolute change of a locked element of the parameter or buffer, inf if the tensor is gone;
            of a module, the largest change of a sample of its outputs; NaN if only a seal tells that it moved.
        kind: `"parameter"`; `"buffer"`, which includes masks and tensors that a task has for itself; or `"module"`, if
            no tensor has moved but the module has another output for the same inputs, because of a hook, a changed
            attribute or another module in its place. None: nothing moved.
    """

    drift: dict[int, float]
    moved: str | None
    moved_by: float
    kind: str | None = None

    @property
    def largest(self) -> float:
        """The largest drift of any task; 0.0 if nothing is forgotten."""
        return max(self.drift.values(), default=0.0)

    @property
    def exact(self) -> bool:
        """Whether every logit is equal and nothing has moved."""
        return self.largest == 0 and self.moved is None

    def __str__(self) -> str:
        moved = "no locked parameter moved"
        if self.moved is not None:
            verb = "answers differently, by" if self.kind == "module" else "moved by"
            by = "moved" if math.isnan(self.moved_by) else f"{verb} {self.moved_by:g}"
            moved = f"{self.kind} {self.moved} {by}"
        return f"largest drift {self.largest:g} over {len(self.drift)} tasks; {moved}"
