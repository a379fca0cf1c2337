"""Whatever a network does, `hat.convert` converts it, or says in one line where it cannot and why."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import hat
from hat.tracing.errors import ConversionError
from tests.hat.conversion.zoo import Net

pytestmark = pytest.mark.usefixtures("one_thread")
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))


def in_place(h):
    h = h.clone()
    h[:, 2:4] = 0
    return h


ODD = {  # behind 12 units [4, 12]
    "glu": lambda h: F.glu(h, -1),
    "glu of a broadcast": lambda h: F.glu(h[:, None, :].expand(-1, 4, -1), 1).flatten(1),
    "glu of channels": lambda h: F.glu(h.view(-1, 3, 4).repeat_interleave(2, 1)[:, :5].flatten(1)),
    "split": lambda h: torch.cat(torch.split(h, [5, 7], 1)[::-1], -1),
    "unfold": lambda h: h.unfold(-1, 3, 3).sum(-1),
    "unfolded image": lambda h: F.unfold(h.view(-1, 3, 2, 2), 2).flatten(1),
    "pixel shuffle": lambda h: F.pixel_shuffle(h.view(-1, 12, 1, 1), 2).flatten(1),
    "gather": lambda h: torch.gather(h, 1, h.argsort(1)),
    "index put": lambda h: h.index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(1.0)),
    "scatter": lambda h: torch.zeros_like(h).scatter(1, h.argsort(1), h),
    "cumsum": lambda h: h.cumsum(1),
    "roll": lambda h: h.roll(1),
    "complex": lambda h: torch.view_as_complex(h.view(-1, 6, 2)).abs(),
    "complex products": lambda h: (torch.complex(h, h) * torch.polar(torch.ones(12), torch.arange(12.0))).real,
    "fft": lambda h: torch.fft.rfft(h).abs(),
    "cast to complex": lambda h: (h.to(torch.cfloat) * (1 + 2j)).imag,
    "view": lambda h: h.view(-1, 2, 6).transpose(-1, -2).reshape(len(h), -1),
    "bits": lambda h: h.view(torch.int32).view(torch.float32),
    "strides": lambda h: h.as_strided((4, 6), (12, 2)),
    "keepdim": lambda h: h - h.max(-1, keepdim=True).values,
    "without dimensions": lambda h: h * h.sum().sigmoid(),
    "einsum without an arrow": lambda h: torch.einsum("bi,ci", h, h),
    "einsum of three": lambda h: torch.einsum("bi,bi,bi->bi", h, h, h),
    "outer product": lambda h: (h[:, :, None] * h[:, None, :]).flatten(1),
    "inverse": lambda h: torch.linalg.inv(h.view(-1, 3, 4)[..., :3] + 9 * torch.eye(3)).flatten(1),
    "singular values": lambda h: torch.linalg.svd(h.view(-1, 3, 4))[1],
    "dtypes": lambda h: h.double().half().float(),
    "integers": lambda h: h.long().float(),
    "in place": in_place,
    "dict": lambda h: {"a": [h]}["a"][0],
    "repeat": lambda h: h.repeat_interleave(torch.tensor([1, 2] * 6), 1),
    "nothing more": lambda h: torch.cat([h, h[:, :0]], 1),
    "no units left": lambda h: torch.ones(len(h), 3),
    "not a number": lambda h: h * float("nan"),
    "values in Python": lambda h: h * h.sum().item(),
    "numpy": lambda h: torch.from_numpy(h.detach().numpy()),
    "random": lambda h: h + torch.rand(12),
    "sparse": lambda h: torch.sparse.mm(torch.eye(4).to_sparse(), h),
    "vmap": lambda h: torch.vmap(torch.relu)(h),
    "two answers": lambda h: (h, h),
    "no answer": lambda h: None,
}


def outcome(module, example, **options):
    """None if a network is converted, else the message of the refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hat.convert(module, example, **options)
        except ValueError as error:  # a ConversionError is one
            message = str(error)
            assert "\n" not in message
            assert message.partition(":")[0].strip(), message
            return message
    return None


REFUSED = (
    *(
        "not a number",
        "values in Python",
        "numpy",
        "random",
        "vmap",
        "two answers",
        "no answer",
        "integers",
        "in place",
    ),
    "no units left",
)


@pytest.mark.parametrize(
    ("name", "first"), [*((name, "units") for name in ODD), *((name, "channels") for name in ODD if "glu" in name)]
)
def test_an_odd_operation_is_converted_or_refused_by_place(name, first):
    def forward(self, x):
        h = self.one(x if first == "units" else x[:, :3, None, None].expand(-1, -1, 2, 2)).flatten(1)
        return ODD[name](F.relu(h))

    module = Net(forward, one=nn.Linear(5, 12) if first == "units" else nn.Conv2d(3, 3, 1))
    message = outcome(module, X, head=None)
    if name in REFUSED:
        assert message is None or message.startswith(("the network", "Net:"))
    else:
        assert message is None, message


class OnlyTrains(nn.Sequential):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("only\ntrains")
        return super().forward(x)


class Forgetful(nn.Module):
    pass


def scripted():
    return torch.jit.trace(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)), X)


def nan():
    network = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    nn.init.constant_(network[0].weight, float("nan"))
    return network


def gated():
    return hat.convert(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)), X)


def complex_layer():
    def forward(self, x):
        return self.head(self.one(x.to(torch.cfloat)).abs())

    return Net(forward, one=nn.Linear(5, 6, dtype=torch.cfloat), head=nn.Linear(6, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Forgetful, r"^the network \(Forgetful\): NotImplementedError"),
        (nn.Module, r"^the network \(Module\): NotImplementedError"),
        (lambda: nn.ModuleList([nn.Linear(5, 2)]), r"^the network \(ModuleList\)"),
        (lambda: OnlyTrains(nn.Linear(5, 6), nn.Linear(6, 2)), r"^the network \(OnlyTrains, test_ref.*: only trains"),
        (scripted, r"^the network \(TopLevelTracedModule\): a scripted module"),
        (lambda: nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2)), r"^0 \(LazyLinear\): has no parameters yet"),
        (nan, "^the network: expected finite features on the example, got inf or NaN"),
        (gated, r"^module: expected a network without gates, got a hat\.Gate at"),
        (complex_layer, r"^one \(Linear, .*nobody knows the units"),
        (nn.Sequential, "at the network|expected the network to end with a linear layer"),
        (nn.Identity, "expected the network to end with a linear layer"),
    ],
)
def test_odd_modules_are_refused_by_name(make, message):
    for copied in (False, True) if make is not scripted else (False,):
        with pytest.raises(ValueError, match=message) as refusal:
            hat.convert(make(), X, copy=copied)
        assert "\n" not in str(refusal.value)


def test_a_network_without_a_layer_that_can_be_gated():
    """Every layer is named, with the reason."""
    weight_norm = parametrizations.weight_norm
    parts = (weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 2))
    with pytest.raises(ConversionError) as refusal:
        hat.convert(nn.Sequential(*parts), X, filter=lambda module, name: name != "3")
    assert str(refusal.value) == (
        "the network: expected at least one layer that can be gated, got 0 (ParametrizedLinear) computes its weight by "
        "a parametrization; remove it (remove_parametrizations); 2 (LayerNorm) is a norm, which every task has for "
        "itself; 3 (Linear) is excluded by `filter`; 4 (Linear) is the head, which every task has for itself"
    )
    with pytest.raises(ConversionError, match=r"gated, got a network without parameters$"):
        hat.convert(nn.Sequential(nn.ReLU()), X, head=None)
    scaled = Net(lambda self, x: (x * self.scale).sigmoid(), scale=nn.Parameter(torch.ones(5)))
    with pytest.raises(ConversionError, match=r"the network \(Net\) meets a call that is no layer: .*: mul$"):
        hat.convert(scaled, X, head=None)


def test_examples_that_are_not_dense():
    network = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    nested = torch.nested.nested_tensor([X, X])
    for example, kind in ((X.to_sparse(), "sparse"), (nested, "nested"), ((X, X.to_mkldnn()), "mkldnn")):
        with pytest.raises(ValueError, match=f"^example_input: expected dense tensors, got a .*{kind}"):
            hat.convert(network, example)


def test_an_error_of_a_rule_names_the_place(monkeypatch):
    def broken(*_, **__):
        raise KeyError("inside")

    monkeypatch.setattr("hat.conversion.rules.elementwise.unary", broken)
    with pytest.raises(
        ConversionError, match=r"^1 \(ReLU\): 1: this call could not be converted \(KeyError: 'inside'\)"
    ):
        hat.convert(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)), X)
