"""Parameters of which every process holds a part only. They cannot be locked yet, so they are refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from torch import Tensor

_DTENSOR, _FSDP = "torch.distributed.tensor", "torch.distributed.fsdp"  # imported where such parameters are made


def refuse_sharded(named_parameters: Callable[[], Iterable[tuple[str, Tensor]]], where: str) -> None:
    """Refuse parameters that are spread over several processes.

    Args:
        named_parameters: gives the parameters with their names. It is not called if no parameter can be spread.
        where: the argument or function that the error speaks of.

    Raises:
        TypeError: a parameter is a `DTensor` (`fully_shard`, tensor parallel) or a part of a `FlatParameter`
            (`FullyShardedDataParallel`). The message names the parameter.
    """
    if _DTENSOR not in sys.modules and _FSDP not in sys.modules:
        return
    for name, parameter in named_parameters():
        kind = _kind(parameter)
        if kind is not None:
            raise TypeError(
                f"{where}: expected whole parameters, got {name}, {kind}, of which every process holds a part. Units "
                "cannot be locked in parts yet: leave out fully_shard, FullyShardedDataParallel and "
                "parallelize_module, and train with DistributedDataParallel"
            )


def _kind(parameter: Tensor) -> str | None:
    """The kind of a parameter that is spread over processes; None if it is whole."""
    dtensor = getattr(sys.modules.get(_DTENSOR), "DTensor", None)
    if dtensor is not None and isinstance(parameter, dtensor):
        return "a DTensor"
    if getattr(parameter, "_fsdp_flattened", False) or getattr(parameter, "_is_flat_param", False):
        return "a part of a FlatParameter"
    return None
