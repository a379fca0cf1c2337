"""What a training run may be told, with the published recipe as defaults."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hat.training.ranges import check_choice, check_number, check_switch, check_whole

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The published recipe (Serrà et al. 2018, section 4.1 and its code): plain SGD with a step-wise falling rate.

    Attributes:
        epochs: at most this many a task, > 0.
        batch_size: images a training step, > 0.
        lr: learning rate, > 0.
        lr_factor: the rate is divided by this, > 1 ...
        lr_patience: ... after this many epochs without a better validation loss, > 0.
        lr_min: a task ends when the rate falls below this, from 0 to `lr`.
        clip: largest global norm of the locked gradients, > 0; infinity for none.
        lamb: weight of the capacity penalty, >= 0.
        optimizer: `"sgd"`, `"adam"`, `"adamw"` or `"rmsprop"`; new for every task.
        momentum: of SGD and RMSprop, >= 0; the others take none.
        weight_decay: pull of the free weights towards 0, >= 0.
        seed: of everything random.
        device: a torch device, or `"auto"`: CUDA or ROCm where there is one, else the CPU.
        dtype: `"float32"`, or `"bfloat16"` or `"float16"` for autocast (float16 with a gradient scaler).
        eval_batch_size: fixed for a whole run: bit-identity needs equal batch shapes.
        graph: on a GPU, record training steps and evaluation into graphs, see `hat.TrainStep`; the results are the
            same.
        compile: compile the forward pass and its gradient by `torch.compile`.
    """

    epochs: int = 200
    batch_size: int = 64
    lr: float = 0.05
    lr_factor: float = 3.0
    lr_patience: int = 5
    lr_min: float = 1e-4
    clip: float = 10_000.0
    lamb: float = 0.75
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    eval_batch_size: int = 500
    graph: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr_patience", "eval_batch_size"):
            check_whole(name, getattr(self, name), least=1)
        check_whole("seed", self.seed)
        check_number("lr", self.lr, above=0)
        check_number("lr_factor", self.lr_factor, above=1)
        check_number("clip", self.clip, above=0, finite=False)
        for name in ("lr_min", "lamb", "momentum", "weight_decay"):
            check_number(name, getattr(self, name), least=0)
        if self.lr < self.lr_min:
            raise ValueError(
                f"lr: expected at least lr_min = {self.lr_min:g}, below which a task ends, got {self.lr:g}"
            )
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.momentum and self.optimizer in ("adam", "adamw"):
            raise ValueError(f"momentum: expected 0 with {self.optimizer}, which takes none, got {self.momentum:g}")
        check_choice("dtype", self.dtype, tuple(DTYPES))
        for name in ("graph", "compile"):
            check_switch(name, getattr(self, name))
        self.torch_device()

    def torch_device(self) -> torch.device:
        """The device that `device` names.

        Raises:
            ValueError: it names none, or one that this machine lacks.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError):
            raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {self.device!r}") from None
        try:
            torch.empty(0, device=device)
        except Exception:  # what a backend that is not there raises is its own affair
            raise ValueError(f"device: expected one that this machine has, got {self.device!r}") from None
        if device.type == "meta":
            raise ValueError("device: expected one that computes, got 'meta'")
        return device

    def autocast_dtype(self) -> torch.dtype | None:
        """What a forward pass is cast to; None for float32."""
        return None if self.dtype == "float32" else DTYPES[self.dtype]

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in; does nothing for float32."""
        dtype = self.autocast_dtype()
        return torch.autocast(self.torch_device().type, dtype=dtype, enabled=dtype is not None)
