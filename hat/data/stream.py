"""A sequence of tasks, in the order in which a network learns them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from hat.arguments import check_type, got
from hat.data.task import Task


class Stream(Sequence[Task]):
    """Tasks whose images have one shape. `stream[i]` is a Task, `stream[a:b]` is a Stream.

    Args:
        name: for people ("permuted fashion-mnist").
        tasks: in order.
        input_shape: (C, H, W) of every image of every task; by default that of the first task.

    Raises:
        TypeError: the name is no str, or one of the tasks is no Task.
        ValueError: `input_shape` is not as above, there is neither a task nor `input_shape`, or a task has another
            image shape.
    """

    def __init__(self, name: str, tasks: Iterable[Task], *, input_shape: tuple[int, int, int] | None = None) -> None:
        check_type("name", name, str, "a str")
        try:
            given = iter(tasks)
        except TypeError as error:
            raise TypeError(f"tasks: expected tasks, one after the other, got {got(tasks)}") from error
        checked = []
        for task in given:
            check_type("tasks", task, Task, "a hat.data.Task each")
            checked.append(task)
        self.name = name
        self._tasks = tuple(checked)
        if input_shape is not None:
            check_type("input_shape", input_shape, tuple, "None or a tuple (C, H, W)")
            if len(input_shape) != 3 or not all(type(size) is int and size >= 1 for size in input_shape):
                shown = ", ".join(map(got, input_shape[:4]))
                raise ValueError(f"input_shape: expected (C, H, W), each an int >= 1, got ({shown})")
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
        check_type("index", index, (int, slice), "an int or a slice")
        if isinstance(index, slice):
            return Stream(self.name, self._tasks[index], input_shape=self.input_shape)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected an int in 0..{len(self) - 1}, got {got(index)}")
        return self._tasks[index]

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {len(self)} tasks of {self.input_shape})"
