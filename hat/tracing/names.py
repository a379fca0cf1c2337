"""One name for an operation, whether it is called as a function, a method or an operator of a compiled graph."""

from __future__ import annotations

from torch import fx

_OTHERS = {
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
    """`"add"`, `"view"`, ...; the attribute's name for a look at one; None for a module or a function of a stranger."""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        found = _function(node)
        if found is None:
            return None
        name = found
    else:
        return None
    return _OTHERS.get(name, name)


def _function(node: fx.Node) -> str | None:
    target = node.target
    if target is getattr:
        return str(node.args[1])
    schema = getattr(target, "_schema", None)
    if schema is not None:
        namespace, _, name = schema.name.partition("::")
        return name if namespace == "aten" else None
    home = getattr(target, "__module__", None) or "torch"  # builtin functions of torch have none
    name = getattr(target, "__name__", None)
    return name if name and home.split(".")[0] in _HOMES else None


def where(node: fx.Node) -> str:
    """The place of a node, for a message: the module and the line that it was called in, and what it calls."""
    what = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    place = node.meta.get("place")
    return f"{place}: {what}" if place else str(what)
