"""Reading a pickle of numpy arrays and plain containers without trusting it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What `_codecs.encode` does in the pickle of a bytes object, and nothing else."""
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """What `numpy._core.numeric._frombuffer` does in a protocol-5 pickle of an array."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


# numpy moved its modules (numpy.core to numpy._core): names are looked up here, never imported.
_NUMPY: dict[str, Any] = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "_frombuffer": _frombuffer,
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for which any name but those of numpy arrays is an error, never an import or a call."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"refused {module}.{name}: only numpy arrays and plain containers are read")


def unpickle(where: str, data: bytes) -> dict[str, Any]:
    """The dictionary pickled in `data` (Python 2 strings become str); nothing in it is executed.

    Raises ValueError that names `where` when it is damaged, holds anything else, or is no dictionary.
    """
    try:
        content = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"{where}: expected a pickled dict of arrays, got {error or 'a truncated one'}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a pickled dict of arrays, got a {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
