"""The warnings of this package. Each has its own class, so that a user can filter it."""


class CapacityWarning(UserWarning):
    """A gate or the whole network has no free unit left, or a task uses no unit of a gate."""


class NonFiniteWarning(UserWarning):
    """A gradient held inf or NaN, which count as 0. Finished tasks are safe; the current task may learn nothing."""


class UnlockedWarning(UserWarning):
    """Parameters that no two tasks share: along no gate, so frozen when the first task ends, or each task's own.

    All that will be frozen is told. Each task's own parameters, without norms, are told only if both kinds together are
    more than a tenth of the parameters. The message names the largest, their shares and the reasons.
    """


class GraphWarning(UserWarning):
    """A function that should run as a graph of the GPU runs without a graph. The results are the same."""


class DriftWarning(UserWarning):
    """Something that finished tasks use has moved, so they may answer differently than when they were learned."""


class UnguardedWarning(UserWarning):
    """An optimizer steps that may move what finished tasks use, because it is not under `hat.guard`."""


class UntrainedWarning(UserWarning):
    """The head of the current task, or an embedding, has a gradient but is in no optimizer, so it never learns."""


class TrainingOnlyWarning(UserWarning):
    """A network does something in training only that its conversion lost, such as noise or activation checkpoints."""
