"""One part (train, validation or test) of a task."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from hat.arguments import check_type, check_whole, got

MOST_CHANNELS = 4096
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Part:
    """Normalised images and labels in memory. If the task permutes pixels, the images come out permuted.

    Args:
        images: float32 [N, C, H, W], N >= 0. The part does not copy them (unless they are not contiguous), as other
            parts may share them: do not write to them.
        labels: int64 [N], the labels 0, 1, ... of the task.
        permutation: int64 [H * W], a bijection, or None. It moves pixel positions, the same for every channel:
            `x.flatten(2)[:, :, j] = images.flatten(2)[:, :, permutation[j]]`. A batch is permuted when it is served, so
            a hundred permuted tasks hold one set of images.
        channels: show grey images (C = 1) with this many equal channels; memory holds one. None: show the channels of
            the images.

    Attributes:
        y: int64 [N], the labels.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: a shape, dtype, device or value is not as above.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, permutation: Tensor | None = None, *, channels: int | None = None
    ) -> None:
        for name, tensor in (("images", images), ("labels", labels)):
            check_type(name, tensor, Tensor, "a tensor")
            if tensor.layout != torch.strided:
                raise ValueError(f"{name}: expected a dense tensor, got {tensor.layout}")
        if images.dtype != torch.float32 or images.ndim != 4:
            raise ValueError(f"images: expected float32 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if labels.device != images.device:
            raise ValueError(f"labels: expected a tensor on {images.device} as the images, got {labels.device}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            found = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"labels: expected int64 ({len(images)},), got {found}")
        if permutation is not None:
            _check_permutation(permutation, images.shape[2] * images.shape[3], images.device)
        if channels is not None:
            check_whole("channels", channels, least=1)
            if channels != images.shape[1] and (images.shape[1] != 1 or channels > MOST_CHANNELS):
                most = f"1..{MOST_CHANNELS}" if images.shape[1] == 1 else str(images.shape[1])
                raise ValueError(f"channels: expected None or {most}, got {got(channels)}")
        self._images = images.detach().contiguous()
        self._permutation = permutation
        self._channels = channels or images.shape[1]
        self._copies: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        self._norms: list[float] = []
        self.y = labels.detach()

    def permuted(self, permutation: Tensor | None) -> Part:
        """A part with the same images (one storage, one copy on each device) and another permutation."""
        part = Part(self._images, self.y, permutation, channels=self._channels)
        part._copies, part._norms = self._copies, self._norms
        return part

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Part({len(self)} images of {self.input_shape} on {self.device})"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self._channels, self._images.shape[2], self._images.shape[3]

    @property
    def device(self) -> torch.device:
        """The device of the images and of the batches."""
        return self._images.device

    @property
    def nbytes(self) -> int:
        """Bytes that the images take. Other parts may share these bytes."""
        return self._images.numel() * self._images.element_size()

    def fingerprint(self) -> list[float]:
        """Numbers that tell this part from another: a checksum of labels and permutation, and three means.

        The means are those of x, |x| and x^2 over the images, in float64. On another machine they are only nearly
        equal. Permuted parts that share images compute the means once.
        """
        if not self._norms:
            flat, count = self._images.flatten(), max(1, self._images.numel())
            norms = [torch.linalg.vector_norm(flat, order, dtype=torch.float64).item() for order in (1, 2)]
            total = self._images.sum(dtype=torch.float64).item()
            self._norms[:] = [total / count, norms[0] / count, norms[1] ** 2 / count]
        checksum = zlib.crc32(self.y.cpu().numpy().tobytes())
        if self._permutation is not None:
            checksum = zlib.crc32(self._permutation.cpu().numpy().tobytes(), checksum)
        return [checksum, *self._norms]

    @property
    def x(self) -> Tensor:
        """All images, float32 [N, C, H, W]. If they are permuted or get more channels, every access copies them."""
        return self._show(self._images)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> tuple[Tensor, Tensor]:
        """Images and labels at `rows`.

        Args:
            rows: an int64 tensor or a list of row numbers >= 0, or a slice.

        Returns:
            (x [n, C, H, W], y [n]).

        Raises:
            TypeError, ValueError: `rows` is something else.
            IndexError: a row does not exist (checked on a CPU only).
        """
        if isinstance(rows, slice):
            start, stop, step = _indices(rows, len(self))
            return self._show(self._images[start:stop:step]), self.y[start:stop:step]
        indices = self._checked(rows)
        try:
            return self._take(indices)
        except IndexError as error:
            raise IndexError(f"rows: expected numbers in 0..{len(self) - 1}, got others") from error

    def _checked(self, rows: object) -> Tensor:
        """Rows as an int64 tensor on the device of the images."""
        check_type("rows", rows, (Tensor, Sequence, np.ndarray), "an int64 tensor, a list of ints or a slice")
        try:
            indices = torch.as_tensor(rows, device=self.device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"rows: expected a list of ints, got {got(rows)} of other things") from error
        if indices.ndim != 1 or (len(indices) and indices.dtype not in _WHOLE):
            raise ValueError(f"rows: expected int64 (n,), got {indices.dtype} {tuple(indices.shape)}")
        return indices.long()

    def _take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at rows that lie on the device of the images, int64 [n]."""
        if self.device.type != "cpu":
            return self._show(self._images.index_select(0, indices)), self.y.index_select(0, indices)
        # numpy starts no threads. torch splits a batch of 64 x 784 over all cores: when another process held one of
        # the cores, a split was measured to wait 3 ms, while the whole batch takes 0.08 ms.
        x, y = (torch.from_numpy(values.numpy().take(indices.numpy(), 0)) for values in (self._images, self.y))
        return self._show(x), y

    def batches(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) of all images in order, `batch_size` at a time. The last batch may be smaller.

        Raises:
            ValueError: `batch_size` is no int >= 1.
        """
        check_whole("batch_size", batch_size, least=1)
        return (self[start : start + batch_size] for start in range(0, len(self), batch_size))

    def to(self, device: torch.device | str) -> Part:
        """This part on `device`. Parts that share images also share their copy there, as long as one part lives.

        Raises:
            ValueError: this machine has no such device.
        """
        device = checked_device(device)
        if device == self.device:
            return self
        images = self._copies.get(str(device))
        if images is None:
            images = self._copies[str(device)] = self._images.to(device)
        permutation = None if self._permutation is None else self._permutation.to(device)
        part = Part(images, self.y.to(device), channels=self._channels)
        part._permutation, part._images = permutation, images  # already checked; the tensor that the parts share
        return part

    def _show(self, x: Tensor) -> Tensor:
        """Permute the images x [n, 1 or C, H, W] and give them their channels."""
        if self._permutation is not None:
            flat = x.flatten(2)
            if x.device.type == "cpu":  # mode "clip" spares numpy a check of the permutation, which doubles the time
                flat = torch.from_numpy(flat.numpy().take(self._permutation.numpy(), 2, mode="clip"))
            else:
                flat = flat.gather(2, self._permutation.expand_as(flat))
            x = flat.view(x.shape)
        if self._channels != x.shape[1]:
            x = x.expand(-1, self._channels, -1, -1)
            x = torch.from_numpy(x.numpy().copy()) if x.device.type == "cpu" else x.contiguous()
        return x


def _check_permutation(permutation: Tensor, pixels: int, device: torch.device) -> None:
    check_type("permutation", permutation, Tensor, "None or a tensor")
    if permutation.layout != torch.strided or permutation.device != device:
        found = f"{permutation.layout} on {permutation.device}"
        raise ValueError(f"permutation: expected a dense tensor on {device} as the images, got {found}")
    if permutation.dtype != torch.int64 or permutation.shape != (pixels,):
        found = f"{permutation.dtype} {tuple(permutation.shape)}"
        raise ValueError(f"permutation: expected int64 ({pixels},), got {found}")
    if not permutation.is_meta and not torch.equal(
        permutation.sort().values, torch.arange(pixels, device=permutation.device)
    ):
        raise ValueError(f"permutation: expected every number in 0..{pixels - 1} once, got repeated or other numbers")


def _indices(rows: slice, count: int) -> tuple[int, int, int]:
    """Start, stop and step of a slice of `count` rows, all within the rows."""
    ends = (rows.start, rows.stop, rows.step)
    if not all(end is None or isinstance(end, int) for end in ends) or (rows.step is not None and rows.step < 1):
        raise ValueError(f"rows: expected a slice of ints with a step >= 1, got ({', '.join(map(got, ends))})")
    start, stop, step = rows.indices(count)
    return start, stop, min(step, max(1, count))


def checked_device(device: object) -> torch.device:
    """Bring a device to a `torch.device`.

    Raises:
        TypeError: it is neither a str nor a torch.device.
        ValueError: this machine has no such device.
    """
    check_type("device", device, (str, int, torch.device), "a str or a torch.device")
    assert isinstance(device, (str, int, torch.device))
    try:
        return torch.empty(0, device=torch.device(device)).device
    except Exception as error:  # torch raises errors of many classes
        shown = got(str(device) if isinstance(device, torch.device) else device)
        raise ValueError(f"device: expected a device of this machine, got {shown}") from error


def placed(part: Part, device: torch.device) -> Part:
    """The part on `device`. If the images take more than half of a GPU's free memory, the part stays where it is."""
    if device.type == "cuda" and part.device.type != "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if part.nbytes > free // 2:
            return part
    return part.to(device)
