"""What is raised where a network cannot be converted."""


class ConversionError(ValueError):
    """A network cannot be converted: the message names the place, the reason and, where there is one, a way around."""
