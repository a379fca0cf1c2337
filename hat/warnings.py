"""The warnings of this package, so that a user can filter them."""


class CapacityWarning(UserWarning):
    """A gate or the whole network has no free unit left, or a task uses no unit of a gate."""


class NonFiniteWarning(UserWarning):
    """A gradient of inf or NaN was taken as 0: finished tasks are safe, the one that is being learned may not be."""


class UnlockedWarning(UserWarning):
    """A shared parameter lies along no unit axis: it will be frozen when the first task ends."""


class GraphWarning(UserWarning):
    """What was to be one graph of the GPU runs launch by launch; the results are the same."""
