"""The memory of a step: the bytes of tensors, and the pages of the process.

The bytes of tensors are counted exactly, and are the same in every run. The pages are the memory that the system gave
the process. They also hold other things: scratch space of the matrix library, rounding to whole pages, and blocks that
the allocator keeps for later.
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
MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD, a parameter of glibc's mallopt


def kept(*, but: Iterable[Tensor] = ()) -> int:
    """Count the bytes of all dense tensors on the CPU, except those in `but`.

    Between two steps, these are the tensors that outlive a step: weights, masks, locks, states of an optimizer, memory
    kept for gradients.
    """
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter)]
    tensors = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.layout is torch.strided]
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    for tensor in but:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def allocated(call: Callable[[], object]) -> int:
    """Count the bytes of the tensors that `call` makes: the most that are alive at once."""
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
    """Measure how much the resident memory of this process grows: from before `make` to the peak of the run.

    Everything is made and run twice, and only the second time counts. In the first time libraries, threads and
    compilers take the memory that they keep. The allocator is set to give back every block of 64 KiB or more at once.
    Otherwise a new block could lie in the hole of an old block, and the peak would not show it.

    Args:
        make: builds the network and returns the function to run.

    Returns:
        The growth in bytes; None if the system does not tell, because it is not Linux with glibc.
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
        CLEAR.write_text("5")  # reset VmHWM, the peak
    except (OSError, AttributeError):
        return None
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """An entry of `/proc/self/status`, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
