"""How much memory a step takes: counted in tensors, and measured in pages of the process.

Tensors are counted to the byte, the same each time. Pages are what the system gave the process, with all that is no
tensor: scratch space of the matrix library, rounding, what the allocator holds back.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MMAP_THRESHOLD = -3  # of glibc's mallopt


def kept(*, but: Iterable[Tensor] = ()) -> int:
    """Bytes of all tensors that this process holds on the CPU, but for some.

    Between steps that is what outlives one: weights, masks, locks, states of an optimizer, memory kept for gradients.
    """
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter)]
    found = [tensor for tensor in found if tensor.device.type == "cpu"]
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in found)}
    for tensor in but:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def allocated(call: Callable[[], object]) -> int:
    """The most bytes of tensors that are alive at once during `call` beyond those that were before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def resident(make: Callable[[], Callable[[], object]]) -> int | None:
    """Bytes by which the pages of this process peak while it runs what `make` made, beyond those before `make`.

    Made and run twice, and the second time counts: libraries, threads and compilers take what they keep in the first.
    The allocator is told to give back every block of 64 KiB at once, so that no hole of an old block hides a new one.

    Returns:
        None where the system does not say: not Linux, not glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 1 << 16)
        make()()
        gc.collect()
        libc.malloc_trim(0)
        before = _status("VmRSS")
        run = make()
        gc.collect()
        libc.malloc_trim(0)
        CLEAR.write_text("5")  # the peak starts anew
    except (OSError, AttributeError):
        return None
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Bytes by a name in `/proc/self/status`."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
