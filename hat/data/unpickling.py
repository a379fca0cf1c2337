"""Read a pickle of numpy arrays and plain containers without trusting it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Does what `_codecs.encode` does in the pickle of a bytes object, and nothing else."""
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """Does what `numpy._core.numeric._frombuffer` does in a protocol-5 pickle of an array."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


# The names of numpy that a pickle may use. They are looked up here and never imported, because numpy renamed its module
# numpy.core to numpy._core.
_NUMPY: dict[str, Any] = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "_frombuffer": _frombuffer,
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows the names of numpy arrays only. Any other name is an error, never an import or a call."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"refused {module}.{name}: only numpy arrays and plain containers are read")


def unpickle(where: str, data: bytes) -> dict[str, Any]:
    """Read a pickled dictionary. Nothing in it is executed. Strings of Python 2 become str.

    Args:
        where: the place of the pickle, for the message.
        data: the pickle.

    Raises:
        ValueError: the pickle is damaged, holds other objects, or is no dictionary; the message names `where`.
    """
    try:
        content = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise any error
        raise ValueError(f"{where}: expected a pickled dict of arrays, got {error or 'a truncated one'}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a pickled dict of arrays, got a {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
