"""Functions that compute something else in training than in evaluation: dropout, attention, batch norm.

The network is recorded once, but its graph is used in both modes. So the graph gets a module in place of the function:
`F.dropout(x, 0.1, self.training)` becomes an `nn.Dropout(0.1)`, which drops while the graph is in training mode.

All functions below take `(recorder, function, args, kwargs)`, record the call and return its answer.
"""

from __future__ import annotations

import inspect
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.tracing.calls import Recording
from hat.tracing.substitutes import DroppedAttention

_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
}
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _dropout(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A dropout module if the call drops in training only."""
    arguments = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | kwargs
    input, p, training = arguments["input"], arguments["p"], arguments.get("train", arguments.get("training"))
    if training and not recorder.learning:  # drops in evaluation, too
        return recorder.record("call_function", function, (input, p, True), {})
    if not training and recorder.learning:  # does not drop in training either
        return input
    result = recorder.insert(_DROPOUTS[function](p), "functional_dropout", (input,), {})
    return recorder.become(input, result) if arguments.get("inplace") else result


def _attention(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A `DroppedAttention` if the call drops in training, otherwise the function."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    arguments = dict(zip(names, args, strict=False)) | kwargs
    inputs = tuple(arguments.pop(name) for name in names[:3])
    options: dict[str, Any] = {name: value for name, value in arguments.items() if isinstance(value, Tensor) or value}
    if recorder.learning and (p := options.pop("dropout_p", 0.0)):
        return recorder.insert(DroppedAttention(p), "functional_attention", inputs, options)
    return recorder.record("call_function", function, inputs, options)


def _batch_norm(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A layer if the running statistics belong to a norm of the network, or if the call trains; else the function.

    A layer normalises with the statistics of the batch in training, and with running statistics in evaluation.
    """
    arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    input, mean, var = arguments["input"], arguments["running_mean"], arguments["running_var"]
    affine = [arguments.get("weight"), arguments.get("bias")]
    path = (recorder.nodes.name(mean) or "").rpartition(".")[0]
    owner = recorder.owners.get(path)
    is_layer = isinstance(owner, nn.modules.batchnorm._BatchNorm)
    of_the_network = all(tensor is None or recorder.nodes.name(tensor) for tensor in [var, *affine])
    if not path or not of_the_network or not (is_layer or (recorder.learning and arguments.get("training"))):
        return recorder.record("call_function", function, args, kwargs)
    norm = _NORMS[input.dim()](mean.shape[0], arguments["eps"], arguments["momentum"])
    if isinstance(owner, nn.modules.batchnorm._BatchNorm):
        norm.__dict__.update({**vars(owner), "_modules": {}})
        has_children = any(True for _ in owner.children())  # the children are called by their own names
        return recorder.replace(f"{path}.batch_norm" if has_children else path, norm, (input,), {})
    norm.affine = affine[0] is not None
    norm.weight, norm.bias = affine  # type: ignore[assignment]
    norm.running_mean, norm.running_var = mean, var
    return recorder.insert(norm, "functional_batch_norm", (input,), {})


def _multi_head(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record the calls inside of the function instead of the function.

    The function hides linear layers. In evaluation mode it also hides its dropout, so it is recorded in training mode.
    """
    globals_of_body = {**function.__globals__, "has_torch_function": lambda tensors: False}
    body = types.FunctionType(function.__code__, globals_of_body, function.__name__, function.__defaults__)
    body.__kwdefaults__ = function.__kwdefaults__
    bound = inspect.signature(function).bind(*args, **kwargs)
    before = recorder.learning
    if bound.arguments["dropout_p"]:
        bound.arguments["training"] = recorder.learning = True
    try:
        with recorder:
            return body(*bound.args, **bound.kwargs)
    finally:
        recorder.learning = before


FUNCTIONS: dict[Any, Any] = {
    **dict.fromkeys(_DROPOUTS, _dropout),
    F.scaled_dot_product_attention: _attention,
    F.batch_norm: _batch_norm,
    F.multi_head_attention_forward: _multi_head,
}
