"""The embedded dataset: scikit-learn's handwritten digits, real images and no download."""

from __future__ import annotations

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.optional import optional


def read_digits() -> Dataset:
    """1797 images of 8x8, uint8 values 0..16 (Alpaydin and Kaynak 1998).

    A fifth of each class, drawn with a fixed seed, is for testing. Raises ImportError without scikit-learn.
    """
    digits = optional("sklearn.datasets", "the digits dataset").load_digits()
    images = digits.images.astype(np.uint8)
    return make_dataset(None, "digits", (images, digits.target), None, [str(digit) for digit in range(10)])
