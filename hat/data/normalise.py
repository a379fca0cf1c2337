"""Per-channel normalisation: pixels to float32 with mean 0 and standard deviation 1 over the training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

CHUNK = 4096  # images a step, so that temporary tensors stay small beside the result
MOST = 1 << 25  # numbers a step


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Mean and standard deviation of the training images of one dataset.

    Attributes:
        mean: float32 [C].
        std: float32 [C]; 1 for a constant channel.
    """

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(x: Tensor) -> Normalisation:
        """Measure images.

        Args:
            x: uint8 or float32 [N, C, H, W]; sums are taken in float64.
        """
        if x.dtype == torch.uint8:
            values = torch.arange(256, dtype=torch.float64)
            counts = torch.stack([torch.bincount(x[:, c].reshape(-1), minlength=256) for c in range(x.shape[1])])
            share = counts.double() / counts.sum(1, keepdim=True)
            mean = share @ values
            variance = (share * (values - mean[:, None]) ** 2).sum(1)
        else:
            pixels, chunk = x.numel() / x.shape[1], _chunk(x.shape[1:].numel())
            mean = sum(c.double().sum((0, 2, 3)) for c in x.split(chunk)) / pixels
            squares = [((c.double() - mean[:, None, None]) ** 2).sum((0, 2, 3)) for c in x.split(chunk)]
            variance = torch.stack(squares).sum(0) / pixels
        std = variance.sqrt()
        return Normalisation(mean.float(), torch.where(std > 0, std, 1.0).float())

    def apply(self, x: Tensor, rows: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Normalise images.

        Args:
            x: [N, C, H, W].
            rows: which images; None takes all.
            size: (H, W) to resize to, bilinear, with antialiasing when images shrink; None leaves the size.

        Returns:
            float32 [n, C, H, W].
        """
        count = len(x) if rows is None else len(rows)
        out = torch.empty(count, x.shape[1], *(size or x.shape[2:]))
        chunk = _chunk(max(x.shape[1:].numel(), out.shape[1:].numel()))
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            pixels = (x[start:stop] if rows is None else x[rows[start:stop]]).float()
            if out.shape[2:] != x.shape[2:]:
                pixels = interpolate(pixels, out.shape[2:], mode="bilinear", antialias=True)
            torch.sub(pixels, self.mean[:, None, None], out=out[start:stop])
            out[start:stop] /= self.std[:, None, None]
        return out


def _chunk(numbers: int) -> int:
    """How many images of so many numbers are taken at a time."""
    return max(1, min(CHUNK, MOST // max(1, numbers)))
