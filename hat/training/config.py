"""The options of a training run. Their defaults are the published recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hat.arguments import check_choice, check_number, check_switch, check_type, check_whole, got

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The published recipe (Serrà et al. 2018, section 4.1 and its code): plain SGD whose rate falls in steps.

    Attributes:
        epochs: the most epochs of a task, > 0.
        batch_size: images of a training step, > 0.
        lr: learning rate, > 0.
        lr_factor: the rate is divided by this number, > 1 ...
        lr_patience: ... after this many epochs without a better validation loss, > 0.
        lr_min: a task ends when the rate falls below this, from 0 to `lr`.
        clip: the largest global norm of the locked gradients, > 0; infinity turns clipping off.
        lamb: weight of the capacity penalty, >= 0.
        optimizer: `"sgd"`, `"adam"`, `"adamw"` or `"rmsprop"`; every task gets a new one.
        momentum: of SGD and RMSprop, >= 0; must be 0 for Adam and AdamW.
        weight_decay: pull of the free weights towards 0, >= 0.
        seed: of everything random, from -2^63 to below 2^64.
        device: a torch device, or `"auto"`: a GPU (CUDA or ROCm) if there is one, else the CPU.
        dtype: `"float32"`, or `"bfloat16"` or `"float16"` for autocast (float16 with a gradient scaler).
        eval_batch_size: images of a batch in evaluation; must stay the same for a run, as equal bits need equal shapes.
        graph: on a GPU, record training steps and evaluation into graphs, see `hat.TrainStep`; the results are the
            same.
        compile: compile the forward pass and its gradient by `torch.compile`.

    Raises:
        ValueError: an option is out of its range.
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
            if getattr(self, name) >= 2**63:  # more than torch can count
                raise ValueError(f"{name}: expected below 2^63, got {got(getattr(self, name))}")
        check_whole("seed", self.seed)
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed: expected from -2^63 to below 2^64, got {got(self.seed)}")
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
            raise ValueError(f"momentum: expected 0 with {self.optimizer}, which has none, got {self.momentum:g}")
        check_choice("dtype", self.dtype, tuple(DTYPES))
        for name in ("graph", "compile"):
            check_switch(name, getattr(self, name))
        if isinstance(self.device, torch.device):  # a checkpoint and config.json hold its name
            object.__setattr__(self, "device", str(self.device))
        self.torch_device()

    def torch_device(self) -> torch.device:
        """The device that `device` names.

        Raises:
            ValueError: `device` names no device, or a device that this machine lacks.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            check_type("device", self.device, str, "a name")
            device = torch.device(self.device)
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {got(self.device)}") from None
        try:
            torch.empty(0, device=device)
        except Exception:  # a missing backend may raise any error
            raise ValueError(f"device: expected one that this machine has, got {got(self.device)}") from None
        if device.type == "meta":
            raise ValueError("device: expected a device that computes, got 'meta'")
        return device

    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype of autocast in a forward pass; None for float32, without autocast."""
        return None if self.dtype == "float32" else DTYPES[self.dtype]

    def autocast(self) -> torch.autocast:
        """The context for a forward pass. It does nothing for float32."""
        dtype = self.autocast_dtype()
        return torch.autocast(self.torch_device().type, dtype=dtype, enabled=dtype is not None)
