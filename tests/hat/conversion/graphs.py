"""Random networks. Every step takes some values (images, sequences or vectors) and adds one value."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

BATCH = 3
MOST = 40
"""The numbers of features and channels. They are small, because small networks show the same errors."""


class Graph(nn.Module):
    """A network that runs its steps in order.

    Args:
        steps: (name of a function of this file, its layer or None, the values that it takes, further arguments).
    """

    def __init__(
        self, steps: list[tuple[str, nn.Module | nn.Parameter | None, tuple[int, ...], dict[str, Any]]]
    ) -> None:
        super().__init__()
        known: dict[Any, str] = {}
        self.steps = []
        for name, part, inputs, options in steps:
            if part is not None and part not in known:
                known[part] = f"{name}{len(known)}"
                (self.register_parameter if isinstance(part, nn.Parameter) else self.add_module)(known[part], part)
            self.steps.append((name, known.get(part), inputs, options))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for name, part, inputs, options in self.steps:
            given = [] if part is None else [getattr(self, part)]
            values.append(STEPS[name](*given, *(values[index] for index in inputs), **options))
        return values[-1]


def _halves(x: Tensor, dim: int) -> Tensor:
    one, other = x.chunk(2, dim)
    return one * torch.sigmoid(other)


def _positions_last(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.transpose(1, 2)).transpose(1, 2)


def _channels_last(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _attention(layer: nn.Module, x: Tensor, heads: int, by_hand: bool) -> Tensor:
    batch, length, _ = x.shape
    q, k, v = layer(x).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    found = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v if by_hand else F.scaled_dot_product_attention(q, k, v)
    return found.transpose(1, 2).reshape(batch, length, -1)


def _excite(layers: nn.Module, x: Tensor) -> Tensor:
    return x * torch.sigmoid(layers(x.mean((2, 3), keepdim=True)))


def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


STEPS: dict[str, Any] = {
    "layer": _apply,
    "positions_last": _positions_last,
    "channels_last": _channels_last,
    "attention": _attention,
    "excite": _excite,
    "halves": _halves,
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "maximum": torch.maximum,
    "cat": lambda *xs, dim: torch.cat(xs, dim),
    "scale": lambda p, x: x * p,
    "shift": lambda p, x: x + p,
    "token": lambda p, x: torch.cat([p.expand(x.shape[0], -1, -1), x], 1),
    "slice": lambda x, dim, length: x.narrow(dim, 1, length),
    "roll": lambda x, dim: x.roll(1, dim),
    "flip": lambda x, dim: x.flip(dim),
    "affine": lambda x: x * 2 + 0.5,
    "cumsum": lambda x, dim: x.cumsum(dim),
    "softmax": lambda x, dim: x.softmax(dim),
    "mean": lambda x, dim: x.mean(dim),
    "amax": lambda x, dim: x.amax(dim),
    "flatten": lambda x: x.flatten(1),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "split": lambda x, count: x.unflatten(1, (count, -1)),
    "pad": lambda x, value: F.pad(x, (1, 0, 0, 1), value=value),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "widen": lambda x: F.pad(x, (1, 1)),
    "where": lambda x, y: torch.where(x > 0, x, y),
}


def _groups(draw, channels, *more):
    return draw(st.sampled_from([g for g in range(1, channels + 1) if all(c % g == 0 for c in (channels, *more))]))


def _activation(draw):
    kinds = (nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.Softplus, nn.Dropout, nn.PReLU)
    return draw(st.sampled_from(kinds))()


class Drawing:
    """A network that is being drawn: the steps, and the shapes of all values for one sample."""

    def __init__(self, draw, shape: tuple[int, ...]) -> None:
        self.draw, self.shapes, self.steps = draw, [shape], []
        self.taken: set[int] = set()

    def add(self, name, part, inputs, shape, **options) -> int:
        self.steps.append((name, part, tuple(inputs), options))
        self.taken |= set(inputs)
        self.shapes.append(tuple(shape))
        return len(self.shapes) - 1

    def of(self, dims) -> list[int]:
        return [index for index, shape in enumerate(self.shapes) if len(shape) == dims]

    def choose(self, items):
        return self.draw(st.sampled_from(items))

    def step(self) -> None:
        """Choose a value. The last value is likelier than others, so that networks are deep."""
        last = len(self.shapes) - 1
        index = self.choose([last, last, last, *range(len(self.shapes))])
        shape = self.shapes[index]
        common = [self.elementwise, self.elementwise, self.meet, self.meet, self.moved]
        own = {1: [self.flat] * 4, 2: [self.sequence] * 5, 3: [self.image] * 6}[len(shape)]
        self.choose([*own, *common])(index, shape)

    def elementwise(self, x, shape):
        kind = self.choose(["activation", "activation", "affine", "scale", "shift", "cumsum", "softmax"])
        if kind == "activation":
            self.add("layer", _activation(self.draw), [x], shape)
        elif kind == "affine":
            self.add("affine", None, [x], shape)
        elif kind in ("scale", "shift"):
            units = (shape[0], 1, 1) if len(shape) == 3 else shape[-1:]
            again = [p for n, p, _, _ in self.steps if isinstance(p, nn.Parameter) and p.shape == units]
            self.add(kind, self.choose([nn.Parameter(torch.empty(units)), *again]), [x], shape)
        else:
            self.add(kind, None, [x], shape, dim=self.choose(range(1, len(shape) + 1)))

    def meet(self, x, shape):
        kind = self.choose(["add", "add", "mul", "maximum", "where", "cat"])
        if kind != "cat":
            other = self.choose([i for i, s in enumerate(self.shapes) if s == shape])
            self.add(kind, None, [x, other], shape)
            return
        dim = self.choose([0, len(shape) - 1] if len(shape) == 2 else [0])
        rest = [i for i, s in enumerate(self.shapes) if len(s) == len(shape) and _beside(s, dim) == _beside(shape, dim)]
        others = [self.choose(rest) for _ in range(self.choose([1, 2]))]
        size = shape[dim] + sum(self.shapes[i][dim] for i in others)
        if size <= MOST:
            new = (*shape[:dim], size, *shape[dim + 1 :])
            self.add("cat", None, [x, *others], new, dim=dim + 1)

    def moved(self, x, shape):
        dim = self.choose(range(len(shape)))
        kind = self.choose(["roll", "flip", "slice", "halves"])
        if kind == "halves" and shape[dim] % 2 == 0:
            self.add(kind, None, [x], (*shape[:dim], shape[dim] // 2, *shape[dim + 1 :]), dim=dim + 1)
        elif kind == "slice" and shape[dim] > 2:
            self.add(kind, None, [x], (*shape[:dim], shape[dim] - 1, *shape[dim + 1 :]), dim=dim + 1,
                     length=shape[dim] - 1)  # fmt: skip
        elif kind in ("roll", "flip"):
            self.add(kind, None, [x], shape, dim=dim + 1)

    def again(self, make, fits):
        """Use a new layer, or a layer that is there already."""
        layers = [part for name, part, _, _ in self.steps if name == "layer" and fits(part)]
        return self.choose(layers) if layers and self.choose([False, False, True]) else make()

    def linear(self, x, shape):
        units = self.choose([shape[-1], shape[-1], 3, 6])
        bias = self.choose([True, False])
        layer = self.again(
            lambda: nn.Linear(shape[-1], units, bias=bias),
            lambda part: isinstance(part, nn.Linear) and part.in_features == shape[-1],
        )
        self.add("layer", layer, [x], (*shape[:-1], layer.out_features))

    def flat(self, x, shape):
        kind = self.choose(["linear", "linear", "linear", "norm", "split", "widen"])
        if kind == "linear":
            self.linear(x, shape)
        elif kind == "norm":
            self.add("layer", self.choose([nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm])(shape[0]), [x], shape)
        elif kind == "widen":
            self.add("widen", None, [x], (shape[0] + 2,))
        elif shape[0] % 2 == 0:
            self.add("split", None, [x], (2, shape[0] // 2), count=2)

    def sequence(self, x, shape):
        length, width = shape
        kind = self.choose(["linear", "linear", "norm", "attention", "attention", "mix", "token", "positions", "mean",
                            "amax", "flatten", "conv"])  # fmt: skip
        if kind == "linear":
            self.linear(x, shape)
        elif kind == "norm":
            self.add("layer", self.choose([nn.LayerNorm, nn.RMSNorm])(width), [x], shape)
        elif kind == "attention":
            heads, size = self.choose([1, 2]), self.choose([1, 2])
            layer = nn.Linear(width, 3 * heads * size)
            by_hand = self.choose([True, False])
            self.add(kind, layer, [x], (length, heads * size), heads=heads, by_hand=by_hand)
        elif kind == "mix":
            self.add("positions_last", nn.Linear(length, length), [x], shape)
        elif kind == "conv":
            self.add("positions_last", nn.Conv1d(width, 4, 3, padding=1), [x], (length, 4))
        elif kind == "token" and length < 6:
            self.add(kind, nn.Parameter(torch.empty(1, 1, width)), [x], (length + 1, width))
        elif kind == "positions":
            self.add("shift", nn.Parameter(torch.empty(1, *shape)), [x], shape)
        elif kind in ("mean", "amax"):
            dim = self.choose([1, 1, 2])
            self.add(kind, None, [x], (shape[2 - dim],), dim=dim)
        elif kind == "flatten" and length * width <= MOST:
            self.add(kind, None, [x], (length * width,))

    def image(self, x, shape):
        channels, height, width = shape
        kind = self.choose(["conv", "conv", "conv", "depthwise", "transposed", "norm", "norm", "pool", "excite", "pad",
                            "channels_last", "flatten", "mean", "tokens", "shuffle"])  # fmt: skip
        if kind == "conv":
            out = self.choose([channels, channels, 4, 6])
            groups, bias = _groups(self.draw, channels, out), self.choose([True, False])
            self.add("layer", nn.Conv2d(channels, out, 3, padding=1, groups=groups, bias=bias), [x], (out, *shape[1:]))
        elif kind == "depthwise":
            out, mode = channels * self.choose([1, 1, 2]), self.choose(["zeros", "reflect"])
            layer = nn.Conv2d(channels, out, 3, padding=1, groups=channels, bias=self.choose([True, False]),
                              padding_mode=mode if min(height, width) > 1 else "zeros")  # fmt: skip
            if out <= MOST:
                self.add("layer", layer, [x], (out, height, width))
        elif kind == "transposed":
            out = self.choose([channels, 4])
            groups = _groups(self.draw, channels, out)
            self.add("layer", nn.ConvTranspose2d(channels, out, 3, padding=1, groups=groups), [x], (out, *shape[1:]))
        elif kind == "norm":
            norm = self.choose([nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm])
            if norm is nn.GroupNorm:
                layer = norm(_groups(self.draw, channels), channels)
            elif norm is nn.LayerNorm:
                layer = norm(list(shape))
            else:
                layer = norm(channels)
            if height * width > 1:
                self.add("layer", layer, [x], shape)
        elif kind == "pool" and min(height, width) > 2:
            layer = self.choose([nn.MaxPool2d, nn.AvgPool2d])(2)
            self.add("layer", layer, [x], (channels, height // 2, width // 2))
        elif kind == "excite":
            layers = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1))
            self.add(kind, layers, [x], shape)
        elif kind == "pad" and max(height, width) < 6:
            value = self.choose([0.0, 0.7])
            self.add(kind, None, [x], (channels, height + 1, width + 1), value=value)
        elif kind == "channels_last":
            self.add(kind, self.choose([nn.LayerNorm(channels), nn.Linear(channels, channels)]), [x], shape)
        elif kind == "flatten" and channels * height * width <= MOST:
            self.add(kind, None, [x], (channels * height * width,))
        elif kind == "mean":
            self.add(kind, None, [x], (channels,), dim=(2, 3))
        elif kind == "tokens" and height * width <= 9:
            self.add(kind, None, [x], (height * width, channels))
        elif kind == "shuffle" and channels % 4 == 0 and max(height, width) < 5:
            self.add("layer", nn.PixelShuffle(2), [x], (channels // 4, 2 * height, 2 * width))

    def finish(self) -> Graph:
        """A last layer reads the last values as one vector, and up to two values that no step has used."""
        loose = [index for index in range(len(self.shapes)) if index not in self.taken][-3:]
        flat = []
        for index in loose:
            shape = self.shapes[index]
            if len(shape) == 3:
                index = self.add("mean", None, [index], shape[:1], dim=(2, 3))
            elif len(shape) == 2:
                index = self.add("mean", None, [index], shape[1:], dim=1)
            flat.append(index)
        width = sum(self.shapes[index][0] for index in flat)
        joined = self.add("cat", None, flat, (width,), dim=1)
        hidden = self.add("layer", nn.Linear(width, 5), [joined], (5,))
        hidden = self.add("layer", nn.ReLU(), [hidden], (5,))
        self.add("layer", nn.Linear(5, 4), [hidden], (4,))
        return Graph(self.steps)


def _beside(shape, dim):
    return shape[:dim] + shape[dim + 1 :]


@st.composite
def graphs(draw, most: int = 10):
    """(module, example) in float64 and in evaluation mode."""
    shape = draw(st.sampled_from([(4,), (3, 4), (2, 4, 4)]))
    drawing = Drawing(draw, shape)
    for _ in range(draw(st.integers(2, most))):
        drawing.step()
    module = drawing.finish()
    torch.manual_seed(draw(st.integers(0, 2**16)))
    module = module.double()
    with torch.no_grad():
        for name, values in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                values.uniform_(0.5, 2)
            elif values.is_floating_point():
                values.copy_(0.5 * torch.randn_like(values))
    return module.eval(), (torch.randn(BATCH, *shape, dtype=torch.float64),)
