"""One name for an operation, however it is called.

`torch.add(x, y)`, `x.add(y)`, `x + y` and `aten.add` in an exported graph are all `"add"`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import fx

from hat.tracing.errors import refused, told

_SYNONYMS = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "concat": "cat",
    "concatenate": "cat",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "absolute": "abs",
    "negative": "neg",
    "clip": "clamp",
    "_softmax": "softmax",
    "_unsafe_view": "view",
}
_HOMES = ("torch", "_operator", "operator", "builtins", "math")


def operation(node: fx.Node) -> str | None:
    """The name of the operation of a node: `"add"`, `"view"`, ...

    The name of the attribute for `getattr`. None for a module, and for a function from outside torch and Python.
    """
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        plain_name = _function(node)
        if plain_name is None:
            return None
        name = plain_name
    else:
        return None
    return _SYNONYMS.get(name, name)


def _function(node: fx.Node) -> str | None:
    """The name of the function that a node calls; None for a function from outside torch and Python."""
    target = node.target
    if target is getattr:
        return str(node.args[1])
    schema = getattr(target, "_schema", None)
    if schema is not None:
        namespace, _, name = schema.name.partition("::")
        return name if namespace == "aten" else None
    home = getattr(target, "__module__", None) or "torch"  # builtin functions of torch have no `__module__`
    name = getattr(target, "__name__", None)
    return name if name and home.split(".")[0] in _HOMES else None


def place_of(node: fx.Node) -> str:
    """The place of a node, for a message: the module, the line of the call, and the name of the called function."""
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    place = node.meta.get("place")
    return f"{place}: {called}" if place else str(called)


def placed(node: fx.Node) -> AbstractContextManager[None]:
    """Turn an error inside the `with` block into a `ConversionError` that names the place of a node."""
    return refused(lambda error: f"{place_of(node)}: this call could not be converted ({told(error)})")
