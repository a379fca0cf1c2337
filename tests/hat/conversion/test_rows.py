"""Layers that compute their weight: whether each output unit is made from its own rows alone, whatever is drawn."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat
from hat.conversion.rules.rows import keeps_rows_apart
from hat.tracing.errors import ConversionError
from tests.hat.conversion.zoo import Net

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = (2, 3, 4, 6, 8, 64)


def layer(weight_of, *, cls=nn.Linear, **attributes):
    """A function of a number of rows: a layer that applies `weight_of(layer, weight)`."""

    class Derived(cls):
        def forward(self, x):
            weight = weight_of(self, self.weight)
            bias = self.bias
            weight, bias = weight if isinstance(weight, tuple) else (weight, bias)
            return F.linear(x, weight, bias) if cls is nn.Linear else F.conv2d(x, weight, bias)

    def make(rows):
        made = Derived(5, rows) if cls is nn.Linear else Derived(5, rows, 3)
        for name, value in attributes.items():
            setattr(made, name, value(rows) if callable(value) else value)
        return made

    return make


conv = functools.partial(layer, cls=nn.Conv2d)


def when(condition, mixed):
    return lambda self, w: mixed(w) if condition(self) else w * 2


def mean_of_neighbours(self, w):
    return (w + w.roll(1, 0) + w.roll(-1, 0)) / 3


def only_the_last_two(self, w):
    return torch.cat([w[:-2], w[-2:].flip(0) + w[-2:]]) if len(w) > 2 else w + w.flip(0)


def orthogonal(self, w):
    return torch.linalg.qr(w.t() if len(w) <= w.shape[1] else w)[0].new_zeros(w.shape) + w.sum()


def of_the_bias_of_others(self, w):
    return w * self.bias.flip(0)[:, None]


def counted(self, w):
    self.steps = self.steps + 1
    return w / self.steps


def cached_in_training(self, w):
    if self.training:
        self.deviation = w.detach().std()
    return w / self.deviation


def only_compiled(self, w):
    return w / w.std() if torch.compiler.is_compiling() else w * 2


def at_another_length(weight_of):
    class Derived(nn.Linear):
        def forward(self, x):
            w = self.weight / self.weight.std() if weight_of(x) else self.weight * 2
            return F.linear(x, w, self.bias)

    return lambda rows: Derived(5, rows)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        return w / w.std()

    @staticmethod
    def backward(ctx, grad):
        return grad


class AfterTheProduct(nn.Linear):
    def forward(self, x):
        y = F.linear(x, self.weight * 2, self.bias)
        return y - y.mean(-1, keepdim=True) * self.weight.mean()


class OfTheBias(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 2, self.bias.softmax(0))


class Twice(nn.Linear):
    def forward(self, x):
        return (
            F.linear(x, self.weight * 2) @ F.linear(torch.eye(self.in_features), self.weight * 1).t() @ self.weight.t()
        )


class Inside(nn.Linear):
    def __init__(self, columns, rows):
        super().__init__(columns, rows)
        self.inner = nn.Linear(columns, rows)

    def forward(self, x):
        return F.linear(x, self.weight * self.inner.weight, self.bias)


class Buffered(nn.Linear):
    def __init__(self, columns, rows):
        super().__init__(columns, rows)
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, x):
        if self.training:
            self.deviation.copy_(self.weight.detach().std())
        return F.linear(x, self.weight / self.deviation, self.bias)


DEPENDENT = {
    "deviation of all": layer(lambda self, w: w / w.std()),
    "mean of all": layer(lambda self, w: w - w.mean()),
    "largest of all": layer(lambda self, w: w / w.abs().max()),
    "largest in a dimension": layer(lambda self, w: w / w.abs().amax(0, keepdim=True)),
    "softmax over rows": layer(lambda self, w: w.softmax(0)),
    "normalised columns": layer(lambda self, w: F.normalize(w, dim=0)),
    "sorted rows": layer(lambda self, w: w.sort(0).values),
    "ranks of rows": layer(lambda self, w: w + w.argsort(0)),
    "running sum": layer(lambda self, w: w.cumsum(0)),
    "orthogonal": layer(orthogonal),
    "product with itself": layer(lambda self, w: w @ (w.t() @ w)),
    "mean of neighbours": layer(mean_of_neighbours),
    "flipped": layer(lambda self, w: w.flip(0) * w),
    "only the last two": layer(only_the_last_two),
    "clipped by the largest row": layer(lambda self, w: torch.minimum(w, 1000 * w.abs().sum(1).max())),
    "only when the first is positive": layer(lambda self, w: torch.where(w[0, 0] > 0, w, w * 2)),
    "only when all are large": layer(lambda self, w: torch.where(w.min() > 1e6, -w, w * 2)),
    "cancelled in most places": layer(lambda self, w: w + (w.sum() - w.sum()) * 1e-6),
    "without NaN": layer(lambda self, w: w * 2 + w.sum().nan_to_num().clamp(-1e-9, 0)),
    "bias of others": layer(of_the_bias_of_others),
    "only in training": layer(when(lambda self: self.training, lambda w: w / w.std())),
    "only in evaluation": layer(when(lambda self: not self.training, lambda w: w / w.std())),
    "only compiled": layer(only_compiled),
    "only with more samples": at_another_length(lambda x: x.shape[0] > 100),
    "only with many samples": at_another_length(lambda x: len(x) % 64 == 63),
    "only with exactly so many": at_another_length(lambda x: x.shape == (17, 5)),
    "only between two numbers of samples": at_another_length(lambda x: 100 < x.shape[0] <= 101),
    "in a loop over samples": at_another_length(lambda x: any(x.shape[0] - 40 == i for i in range(100))),
    "by the values of the input": at_another_length(lambda x: bool(x.sum() > 1e9)),
    "hidden in a function": layer(lambda self, w: Hidden.apply(w)),
    "through numpy": layer(lambda self, w: w / float(w.detach().numpy().std())),
    "cached in training": layer(cached_in_training, deviation=1.0),
    "counts its calls": layer(counted, steps=0),
    "from a tensor kept outside": layer(lambda self, w: w / self.kept[0], kept=lambda rows: [torch.ones(1)]),
    "after the product": lambda rows: AfterTheProduct(5, rows),
    "in the bias": lambda rows: OfTheBias(5, rows),
    "twice": lambda rows: Twice(5, rows),
    "with a module inside": lambda rows: Inside(5, rows),
    "with a buffer": lambda rows: Buffered(5, rows),
    "conv: deviation of all": conv(lambda self, w: w / w.std()),
    "conv: deviation of all filters at a place": conv(lambda self, w: w / w.std(0, keepdim=True)),
    "conv: batch norm of columns": conv(
        lambda self, w: F.batch_norm(w.flatten(2), None, None, training=True).view_as(w)
    ),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_rows_are_never_accepted(name, rows):
    torch.manual_seed(0)
    made = DEPENDENT[name](rows)
    x = torch.randn(4, 5) if isinstance(made, nn.Linear) else torch.randn(2, 5, 4, 4)
    state = {key: value.clone() for key, value in made.state_dict().items()}
    assert not keeps_rows_apart(made, x)
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert made.training


class OfTimm(nn.Conv2d):
    """A standardised convolution as the library timm writes it."""

    def __init__(self, columns, rows, size):
        super().__init__(columns, rows, size)
        self.gain = nn.Parameter(torch.ones(rows, 1, 1, 1))
        self.scale, self.eps = size**-2, 1e-6

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None,
            weight=(self.gain * self.scale).view(-1), training=True, momentum=0.0, eps=self.eps,
        ).reshape_as(self.weight)  # fmt: skip
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Same(nn.Conv2d):
    """Pads its input so that the output has its size, as the library timm writes it."""

    def forward(self, x):
        height, width = x.size()[-2:]
        tall, wide = (max((math.ceil(n / 2) - 1) * 2 + self.kernel_size[0] - n, 0) for n in (height, width))
        x = F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, 2)


class ByLength(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 2 if x.shape[0] > 3 else self.weight * 3, self.bias)


class Equalised(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * (1 / len(self.weight[0]) ** 0.5), self.bias)


class Product(nn.Linear):
    def forward(self, x):
        return (x @ (self.weight * 0.1).t() + self.bias) * self.weight.norm(dim=1)


class WithDropout(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.dropout(self.weight * 2, 0.5, self.training), self.bias)


class Normed(nn.Linear):
    def __init__(self, columns, rows):
        super().__init__(columns, rows)
        self.length = nn.Parameter(torch.ones(rows, 1))

    def forward(self, x):
        return F.linear(x, self.length * self.weight / self.weight.norm(dim=1, keepdim=True), self.bias)


def noisy(self, w):
    return w + torch.randn_like(w) if self.training else w * 1


INDEPENDENT = {
    "standardised": layer(lambda self, w: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)),
    "normalised": layer(lambda self, w: F.normalize(w)),
    "scaled": layer(lambda self, w: w * 0.3),
    "clipped": layer(lambda self, w: w.clamp(-1, 1)),
    "softmax of a row": layer(lambda self, w: w.softmax(-1)),
    "sorted in a row": layer(lambda self, w: w.sort(1).values),
    "centred by a variance": layer(lambda self, w: (w - torch.var_mean(w, 1, keepdim=True)[1]).expand_as(w)),
    "without small values": layer(lambda self, w: torch.where(w.abs() > 0.1 * w.abs().amax(1, keepdim=True), w, 0.0)),
    "halves of a row": layer(lambda self, w: torch.cat([w[:, 2:], w[:, :2]], 1)),
    "noise in training": layer(noisy),
    "of its bias": layer(lambda self, w: w * self.bias[:, None]),
    "equalised": lambda rows: Equalised(5, rows),
    "product": lambda rows: Product(5, rows),
    "dropout": lambda rows: WithDropout(5, rows),
    "length of a row": lambda rows: Normed(5, rows),
    "padded to the same size": lambda rows: Same(5, rows, 3),
    "by length, but each row by itself": lambda rows: ByLength(5, rows),
    "timm": lambda rows: OfTimm(5, rows, 3),
    "conv: standardised": conv(lambda self, w: w - w.mean((1, 2, 3), keepdim=True)),
    "conv: flipped filters": conv(lambda self, w: w.flip(2, 3)),
}


@pytest.mark.parametrize("rows", [1, *ROWS])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_stay_accepted(name, rows):
    made = INDEPENDENT[name](rows)
    x = torch.randn(4, 5) if isinstance(made, nn.Linear) else torch.randn(2, 5, 4, 4)
    assert keeps_rows_apart(made, x)


def test_no_random_number_is_used_up():
    made = INDEPENDENT["noise in training"](6)
    before = torch.get_rng_state()
    assert keeps_rows_apart(made, torch.ones(4, 5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", range(40))
def test_a_network_whose_rows_depend_on_each_other_is_refused_whatever_the_seed(seed):
    torch.manual_seed(seed)
    parts = {"one": nn.Linear(5, 5), "two": DEPENDENT["deviation of all"](3), "last": nn.Linear(3, 2)}
    net = Net(lambda self, x: self.last(torch.relu(self.two(torch.relu(self.one(x))))), **parts)
    with pytest.raises(ConversionError, match=r"two.*nobody knows the units of the parameters of a Derived"):
        hat.convert(net, torch.randn(4, 5))


PARAMETRIZED = {
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm of all": lambda module: nn.utils.parametrizations.weight_norm(module, dim=None),
}


@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_a_parametrized_weight_forgets_nothing(name, rows):
    torch.manual_seed(0)
    parts = {"one": nn.Linear(5, 8), "two": PARAMETRIZED[name](nn.Linear(8, rows)), "last": nn.Linear(rows, 2)}
    net = Net(lambda self, x: self.last(torch.relu(self.two(torch.relu(self.one(x))))), **parts)
    with pytest.warns(hat.UnlockedWarning, match=r"each task's own, because of two\.parametrizations"):
        model = hat.convert(net, torch.randn(4, 5))
    assert drift(model, torch.randn(8, 5)) == 0


@pytest.mark.parametrize("name", ["standardised", "length of a row", "product", "of its bias"])
def test_a_layer_with_independent_rows_forgets_nothing(name):
    torch.manual_seed(0)
    two = INDEPENDENT[name](6)
    net = Net(lambda self, x: self.last(torch.relu(self.two(x))), two=two, last=nn.Linear(6, 2))
    assert drift(hat.convert(net, torch.randn(4, 5)), torch.randn(8, 5)) == 0


def drift(model: hat.HATModel, x: Tensor) -> float:
    """How much the answer for the first task changes while the second one is learned."""
    model.begin_task(2)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1)
            gate.embedding[: max(1, gate.units // 2)] = 1
    model.end_task()
    expected = model.eval()(x, task=0).detach().clone()
    model.train().begin_task(2)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.5)
    model.anneal(1.0)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(8) % 2).backward()
        optimizer.step()
    model.end_task()
    return (model.eval()(x, task=0) - expected).abs().max().item()
