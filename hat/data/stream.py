"""A sequence of tasks, in the order in which they are learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from hat.data.task import Task


class Stream(Sequence[Task]):
    """Tasks of one image shape.

    name: for people ("permuted fashion-mnist"). input_shape: (C, H, W) of every image of every task.
    `stream[i]` is a Task, `stream[a:b]` a Stream. Raises ValueError for no task, or tasks of several shapes.
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
