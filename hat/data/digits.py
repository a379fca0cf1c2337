"""Reader: the handwritten digits of scikit-learn, real images that need no download."""

from __future__ import annotations

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.optional import optional


def read_digits() -> Dataset:
    """1797 images of 8x8 pixels, uint8 values 0..16 (Alpaydin and Kaynak 1998).

    A fifth of each class, drawn with a fixed seed, is the test part.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    digits = optional("sklearn.datasets", "the digits dataset").load_digits()
    images = digits.images.astype(np.uint8)
    return make_dataset(None, "digits", [(images, digits.target)], [str(digit) for digit in range(10)])
