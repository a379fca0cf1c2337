"""A sequence of tasks, in the order in which a network learns them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from hat.data.task import Task


class Stream(Sequence[Task]):
    """Tasks whose images have one shape. `stream[i]` is a Task, `stream[a:b]` is a Stream.

    Args:
        name: for people ("permuted fashion-mnist").
        tasks: in order.
        input_shape: (C, H, W) of every image of every task; by default that of the first task.

    Raises:
        ValueError: there is neither a task nor `input_shape`, or a task has another image shape.
    """

    def __init__(self, name: str, tasks: Iterable[Task], *, input_shape: tuple[int, int, int] | None = None) -> None:
        self.name = name
        self._tasks = tuple(tasks)
        if input_shape is None and not self._tasks:
            raise ValueError("tasks: expected at least one task, or input_shape, got neither")
        self.input_shape: tuple[int, int, int] = input_shape or self._tasks[0].input_shape
        for task in self._tasks:
            if task.input_shape != self.input_shape:
                raise ValueError(
                    f"tasks: expected images of {self.input_shape}, got {task.input_shape} in {task.name!r}"
                )

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...

    @overload
    def __getitem__(self, index: slice) -> Stream: ...

    def __getitem__(self, index: int | slice) -> Task | Stream:
        if isinstance(index, slice):
            return Stream(self.name, self._tasks[index], input_shape=self.input_shape)
        return self._tasks[index]

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {len(self)} tasks of {self.input_shape})"
