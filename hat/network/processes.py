"""Several processes that hold the same model: they begin and end tasks together, with the values of the first of them.

A call of `begin_task`, `end_task`, `hat.forget` or `hat.grow` is a meeting. Every process writes into the store of the
process group what it calls, and a checksum of every tensor. Then it waits until all others have written, too. The store
shows who has not come, whatever the backend. It also holds one decision for all processes: the first process that knows
whether all have come writes it (`compare_set`). So either all processes go on, or all raise an error before anything
is changed.

Example: process 1 has other bits in one weight when task 0 ends.

    hat/0/calls, hat/1/calls        4 and 4: this is the fourth meeting for both
    hat/4/0, hat/4/1                {"call": "end_task", "result": {"task": 0}, "digest": "5f..."}, for 1 "a1..."
    hat/4/decision                  "all are here"
    hat/4/0/tensors                 [["body.0.weight", "float32 [30, 20]", 7712], ...], read as the digests differ
    both processes                  RuntimeError: end_task: body.0.weight has other values in rank 1 than in rank 0; ...
"""

from __future__ import annotations

import hashlib
import json
import reprlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hat.arguments import got
from hat.network.checksums import checksum

ProcessGroup = Any
"""`torch.distributed.ProcessGroup`. A build of PyTorch without `torch.distributed` lacks this class."""

_ALL_HERE = "all are here"
_ALONE = "for a model that each process has for itself use HATModel(..., process_group=None)"
_LONGEST_PAUSE = 0.05  # seconds between two looks into the store

Result = TypeVar("Result")


class Processes:
    """The processes that hold the same model.

    A copy has the same group. A pickle cannot hold a process group; after loading, a group other than None is the
    default one.

    Args:
        group: `"default"`, the default process group if `torch.distributed` is initialised at the time of a call; a
            process group; or None, this process alone.

    Raises:
        TypeError: `group` is none of these.
        ValueError: this process is not in the group.
    """

    def __init__(self, group: ProcessGroup | Literal["default"] | None) -> None:
        given: Any = group
        if not isinstance(given, str | None) or given not in (None, "default"):
            outside = dist.is_available() and given is dist.GroupMember.NON_GROUP_MEMBER
            if not outside and not (dist.is_available() and isinstance(given, dist.ProcessGroup)):
                raise TypeError(f'process_group: expected a process group, "default" or None, got {got(group)}')
            if outside or dist.get_rank(given) < 0:  # type: ignore[arg-type]
                raise ValueError("process_group: expected a group of this process, got a group of other processes")
        self.group = group

    def present(self) -> ProcessGroup | None:
        """The group that meets now; None if this process is alone."""
        if self.group is None or not dist.is_available() or not dist.is_initialized():
            return None
        group = dist.group.WORLD if self.group == "default" else self.group
        return group if dist.get_world_size(group) > 1 else None

    def agree(
        self,
        call: str,
        check: Callable[[], Result],
        tensors: Callable[[], Mapping[str, Tensor]] = dict,
        *,
        free: Collection[str] = (),
    ) -> Result:
        """Wait until all processes make the same call with the same tensors. If this raises, nothing has changed.

        Args:
            call: what the processes are about to do, for example "end_task".
            check: raises an error if this process cannot do it, and returns what must be the same in all processes, as
                JSON can write it.
            tensors: gives the tensors by name. They have the same names, shapes, dtypes and bits in all processes.
            free: the names of tensors that may have other bits.

        Returns:
            The result of `check`.

        Raises:
            RuntimeError: a process does not come, cannot do it, does something else, or has another tensor.
            Exception: whatever `check` raises in this process. The other processes raise a `RuntimeError`.
        """
        group = self.present()
        if group is None:
            return check()
        meeting = _Meeting(group, call)
        try:
            result = check()
            rows = [
                (name, f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}", None if name in free else checksum(t))
                for name, t in tensors().items()
            ]
        except BaseException as error:
            meeting.call_off(error)
            raise
        meeting.hold(result, rows)
        return result

    def take(self, call: str, tensors: Mapping[str, Tensor]) -> None:
        """Give tensors the values that they have in the first process of the group.

        Args:
            call: what the processes do, for errors.
            tensors: by name; of the same names, shapes and dtypes in all processes.

        Raises:
            RuntimeError: a process does not come, or has not got the values.
        """
        group = self.present()
        if group is None or not tensors:
            return

        def values_sent() -> str:
            for tensor in tensors.values():
                _broadcast(tensor, group)
            return "the values of the first process"

        self.agree(call, values_sent, lambda: tensors)

    def __deepcopy__(self, _: Any) -> Processes:
        return self

    def __reduce__(self) -> Any:
        return Processes, (None if self.group is None else "default",)


class _Meeting:
    """One call that all processes of a group make.

    Attributes:
        call: what they call.
        ranks: the global rank of every process of the group.
        rank: the number of this process in the group.
        number: how many meetings there were, with this one.
    """

    def __init__(self, group: ProcessGroup, call: str) -> None:
        self.call, self.ranks, self.rank = call, dist.get_process_group_ranks(group), dist.get_rank(group)
        store = dist.distributed_c10d._get_process_group_store(group)
        self.store, self.timeout = dist.PrefixStore("hat", store), _timeout(group, store)
        with self._answering_store():
            self.number = self.store.add(f"{self.rank}/calls", 1)

    def call_off(self, error: BaseException) -> None:
        """Tell all others that this process cannot come, so that they do not wait."""
        with self._answering_store():
            self._decide(f"rank {self.ranks[self.rank]} cannot: {type(error).__name__}: {error}")

    def hold(self, result: Any, rows: list[Any]) -> None:
        """Meet; see `Processes.agree`.

        Args:
            result: must be the same in all processes.
            rows: (name, dtype and shape, checksum or None) of every tensor; must be the same in all processes.
        """
        listed = json.dumps(rows)
        note = {"call": self.call, "result": result, "digest": hashlib.sha256(listed.encode()).hexdigest()}
        with self._answering_store():
            self.store.set(f"{self.number}/{self.rank}/tensors", listed)
            self.store.set(f"{self.number}/{self.rank}", json.dumps(note))
            notes = self._notes()
            self._refuse_other_calls(notes)
            self._refuse_other_tensors([note["digest"] for note in notes])

    def _notes(self) -> list[dict[str, Any]]:
        """The notes of all processes, when all have come."""
        keys = [f"{self.number}/{rank}" for rank in range(len(self.ranks))]
        try:
            late = [f"rank {self.ranks[rank]}" for rank in self._late(keys)]
        except BaseException as error:
            self.call_off(error)
            raise
        within = f"within {self.timeout.total_seconds():g} s, the timeout of the process group"
        decision = self._decide(f"{', '.join(late)} did not come {within}" if late else _ALL_HERE)
        if decision != _ALL_HERE:
            raise RuntimeError(f"{self.call}: {decision}; all processes of the group must call it together; {_ALONE}")
        for key in (f"{self.rank}", f"{self.rank}/tensors", "decision"):  # all have read those of the meeting before
            self.store.delete_key(f"{self.number - 1}/{key}")
        return [json.loads(self.store.get(key)) for key in keys]

    def _late(self, keys: list[str]) -> list[int]:
        """Wait for the keys. Returns the numbers of those that do not come; none if the meeting is called off."""
        end, pause = time.monotonic() + self.timeout.total_seconds(), 0.001
        while not self.store.check(keys) and not self.store.check([f"{self.number}/decision"]):
            if time.monotonic() > end:
                return [rank for rank, key in enumerate(keys) if not self.store.check([key])]
            time.sleep(pause)  # not `store.wait`: Ctrl-C could not interrupt it
            pause = min(2 * pause, _LONGEST_PAUSE)
        return []

    def _decide(self, verdict: str) -> str:
        """The decision of the process that came to one first."""
        decision: bytes = self.store.compare_set(f"{self.number}/decision", "", verdict)
        return decision.decode()

    def _refuse_other_calls(self, notes: list[dict[str, Any]]) -> None:
        calls = [(note["call"], note["result"]) for note in notes]
        if any(call != calls[0] for call in calls):
            said = (
                f"rank {rank} {call} {reprlib.repr(result)}"
                for rank, (call, result) in zip(self.ranks, calls, strict=True)
            )
            raise RuntimeError(f"{self.call}: expected the same call in all processes, got {'; '.join(said)}; {_ALONE}")

    def _refuse_other_tensors(self, digests: list[str]) -> None:
        other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
        if other is None:
            return
        mine, theirs = (json.loads(self.store.get(f"{self.number}/{rank}/tensors")) for rank in (0, other))
        rows = zip_longest(mine, theirs, fillvalue=["no tensor", "", None])
        (name, form, _), (other_name, other_form, _) = next((a, b) for a, b in rows if a != b)
        first, second = f"rank {self.ranks[0]}", f"rank {self.ranks[other]}"
        differs = f"{first} has {name} {form}, {second} has {other_name} {other_form}"
        if (name, form) == (other_name, other_form):
            differs = f"{name} has other values in {second} than in {first}"
        raise RuntimeError(
            f"{self.call}: {differs}; all processes need the same values from the start, as DistributedDataParallel "
            f"gives them, and the same gradients in every step; {_ALONE}"
        )

    @contextmanager
    def _answering_store(self) -> Iterator[None]:
        """Say what an error of the store means."""
        try:
            yield
        except dist.DistError as error:
            raise RuntimeError(
                f"{self.call}: the store of the process group does not answer; the process that holds it (rank 0 or "
                "the launcher) may have ended"
            ) from error


def _broadcast(tensor: Tensor, group: ProcessGroup) -> None:
    """Copy the bits of a tensor from the first process of a group to all others."""
    if not tensor.numel():
        return
    devices = [device.type for device in group._device_types]
    device = tensor.device if tensor.device.type in devices else torch.device(devices[0])
    values = tensor.detach().reshape(-1).to(device)
    dist.broadcast(values.view(torch.uint8), src=dist.get_process_group_ranks(group)[0], group=group)
    if dist.get_rank(group):
        tensor.detach().copy_(values.view(tensor.shape))


def _timeout(group: ProcessGroup, store: Any) -> timedelta:
    """How long the collectives of a group wait."""
    try:
        timeout: timedelta = group._get_backend(group._device_types[0]).options._timeout
    except (AttributeError, RuntimeError):  # a backend without options
        timeout = store.timeout
    return timeout
