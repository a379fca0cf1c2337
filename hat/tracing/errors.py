"""The error of a network that cannot be converted."""


class ConversionError(ValueError):
    """A network cannot be converted.

    The message names the place in the network, the reason and, if there is one, a way around.
    """
