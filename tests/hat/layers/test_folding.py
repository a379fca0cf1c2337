"""Gates in the weights or over the activations: the same training, and nothing forgotten either way."""

import contextlib
import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
import hat_kernels
from hat.layers.folding import pays
from hat.units.state import OPEN, Finished, PerSample
from tests.hat.nets import use, wired
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.tolerance import FACTOR

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value"),
]


@contextlib.contextmanager
def counted():
    """Counts how often a weight is folded."""
    with mock.patch.object(hat_kernels, "folded_weight", wraps=hat_kernels.folded_weight) as calls:
        yield calls


def configure(module, **config):
    for gate in module.modules():
        if isinstance(gate, hat.Gate):
            gate.state.config = hat.GateConfig(**config)
            gate.state.set_progress(0.01)
    return module


def twins(layer):
    """(unfolded, folded) copies of a layer."""
    return [configure(copy.deepcopy(layer), fold=fold) for fold in ("never", "always")]


def gradients(layer, x):
    """[y, gradient of x, gradients of all parameters]."""
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    y = layer(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], dy)]


def assert_close(got, expected):
    eps = torch.finfo(torch.float32).eps
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).abs().max() <= 64 * eps * theirs.abs().max()


# ---------------------------------------------------------------- one layer

LAYERS = {
    "conv1d": (lambda: hat.HATConv1d(4, 6, 3, pool=nn.MaxPool1d(2)), (4, 9)),
    "conv2d": (lambda: hat.HATConv2d(4, 6, 3, padding=1, pool=nn.MaxPool2d(2)), (4, 8, 8)),
    "conv3d": (lambda: hat.HATConv3d(4, 6, 3, padding=1, stride=2, pool=nn.AvgPool3d(2)), (4, 8, 8, 8)),
    "no pool": (lambda: hat.HATConv2d(4, 6, 3), (4, 8, 8)),
    "groups": (lambda: hat.HATConv2d(4, 6, 3, groups=2, activation="leaky_relu", pool=nn.AvgPool2d(2)), (4, 8, 8)),
    "no bias": (lambda: hat.HATConv2d(4, 6, 3, bias=False, pool=nn.AdaptiveAvgPool2d(2)), (4, 8, 8)),
    "identity": (lambda: hat.HATConv2d(4, 6, 3, activation="identity", pool=nn.AdaptiveMaxPool2d(2)), (4, 8, 8)),
    "dropout": (lambda: hat.HATConv2d(4, 6, 3, dropout=0.5, pool=nn.MaxPool2d(2)), (4, 8, 8)),
    "dropout as a pool": (lambda: hat.HATConv2d(4, 6, 3, pool=nn.Dropout2d(0.5)), (4, 8, 8)),
    "reflect": (lambda: hat.HATConv2d(4, 6, 3, padding=1, padding_mode="reflect", pool=nn.Identity()), (4, 8, 8)),
    "linear": (lambda: hat.HATLinear(8, 6, dropout=0.5), (8,)),
    "linear of a stream": (lambda: hat.HATLinear(8, 6, bias=False), (5, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_folded_layer_is_the_layer(name):
    make, shape = LAYERS[name]
    unfolded, folded = twins(make())
    x = torch.randn(5, *shape)
    with counted() as calls:
        expected = gradients(unfolded, x)
        assert not calls.called
        got = gradients(folded, x)
    assert calls.call_count == 1
    assert_close(got, expected)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["conv2d", "groups", "no bias", "linear"])
def test_a_folded_layer_on_the_kernels(name):
    make, shape = LAYERS[name]
    layer = make()
    layer.dropout = 0.0
    unfolded, folded = (twin.to(DEVICE) for twin in twins(layer))
    x = torch.randn(5, *shape)
    with hat_kernels.backend("reference"):
        expected = gradients(unfolded, x)
    with hat_kernels.backend("triton"), count_launches() as launches:
        got = gradients(folded, x.to(DEVICE))
    assert launches["folded_weight_forward"] == launches["folded_weight_backward"] == 1
    assert not any(name.endswith("sums") for name in launches)  # no sums of a gate over activations
    assert_close([t.cpu() for t in got], expected)


def test_a_unit_that_is_off_keeps_the_gradient_of_its_embedding():
    """The gate is far below the floor, so the activations are 0 if the gate is not folded."""
    layer = hat.HATConv2d(4, 6, 3, pool=nn.MaxPool2d(2))
    with torch.no_grad():
        layer.gate.embedding.copy_(torch.linspace(-0.12, 0.01, 6))
    x = torch.randn(2, 4, 8, 8)
    for compensation in ("published", "exact"):
        results = []
        for layer_ in twins(layer):
            config = hat.GateConfig(compensation=compensation, fold=layer_.gate.state.config.fold)
            layer_.gate.state.config = config
            layer_.gate.state.set_progress(1.0)
            results.append(gradients(layer_, x))
        names = list(dict(layer.named_parameters()))
        expected, got = (result[1 + names.index("gate.embedding") + 1] for result in results)
        assert (400 * layer.gate.embedding[:3] < -22.2).all()
        assert expected[:3].abs().min() > 0
        assert ((got - expected).abs() <= 1e-5 * expected.abs()).all()


def test_autocast_casts_where_it_folds():
    unfolded, folded = twins(hat.HATConv2d(4, 6, 3, pool=nn.MaxPool2d(2)))
    x = torch.randn(5, 4, 8, 8)
    expected = gradients(unfolded, x)
    with torch.autocast("cpu", torch.bfloat16), counted() as calls:
        unfolded_values, got = gradients(unfolded, x), gradients(folded, x)
    assert calls.call_args.kwargs["dtype"] == torch.bfloat16
    assert got[0].dtype == unfolded_values[0].dtype == torch.bfloat16
    for value, unfolded_value, expected_value in zip(got, unfolded_values, expected, strict=True):
        spread = (unfolded_value - expected_value).abs().max() + torch.finfo(
            torch.bfloat16
        ).eps * expected_value.abs().max()
        assert (value - expected_value).abs().max() <= FACTOR * spread


# ---------------------------------------------------------------- where it is not valid


class DerivedPool(nn.MaxPool2d):
    def forward(self, x):
        return super().forward(x).exp()


def locked_layer():
    layer = hat.HATConv2d(4, 6, 3, pool=nn.MaxPool2d(2))
    layer.connect(hat.Gate(4))
    for gate in (layer.inputs[0], layer.gate):
        use(gate, [1] * 2 + [0] * (gate.units - 2))
    return layer


INVALID = {
    "evaluation": lambda: hat.HATConv2d(4, 6, 3).eval(),
    "another activation": lambda: hat.HATConv2d(4, 6, 3, activation="gelu"),
    "an unknown pool": lambda: hat.HATConv2d(4, 6, 3, pool=nn.LPPool2d(2, 2)),
    "a derived pool": lambda: hat.HATConv2d(4, 6, 3, pool=DerivedPool(2)),
    "float64": lambda: hat.HATConv2d(4, 6, 3).double(),
    "a locked block": locked_layer,
}


@pytest.mark.parametrize("name", INVALID)
def test_fold_always_does_not_fold_where_folding_is_not_valid(name):
    unfolded, folded = twins(INVALID[name]())
    x = torch.randn(5, 4, 8, 8, dtype=unfolded.weight.dtype)
    with counted() as calls:
        expected, got = ([t.detach() for t in (layer(x), *layer.parameters())] for layer in (unfolded, folded))
    assert not calls.called
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_float16_is_not_folded():
    layer = configure(hat.HATConv2d(4, 6, 3), fold="always")
    with torch.autocast("cpu", torch.float16), counted() as calls:
        layer(torch.randn(5, 4, 8, 8))
    assert not calls.called


def test_a_finished_task_is_not_folded():
    layer = configure(hat.HATConv2d(4, 6, 3), fold="always")
    use(layer.gate, [1, 0, 1, 0, 1, 0])
    with counted() as calls:
        for answer in (Finished(0), PerSample(torch.zeros(5, dtype=torch.int64)), OPEN):
            with layer.gate.state.answering(answer):
                layer(torch.randn(5, 4, 8, 8))
    assert not calls.called


def test_a_weight_with_locks_along_one_side_only_is_folded():
    """The gradient is then that of the whole weight."""
    layer = locked_layer()
    use(layer.inputs[0], [0, 1, 1, 0])
    unfolded, folded = twins(layer)
    x = torch.randn(5, 4, 8, 8)
    with counted() as calls:
        assert_close(gradients(folded, x), gradients(unfolded, x))
    assert calls.call_count == 1


def test_a_weight_that_moves_in_the_backward_pass_is_not_folded():
    model = hat.HATModel(hat.models.mlp(6, (9, 8)), config=hat.GateConfig(fold="always"))
    model.begin_task(3)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    with counted() as calls:
        F.cross_entropy(model(torch.randn(4, 6)), torch.arange(4) % 3).backward()
    optimizer.step()
    assert not calls.called


def test_a_parametrized_weight_is_computed_once():
    layer = configure(hat.HATConv2d(4, 6, 3), fold="always")
    count = mock.Mock(side_effect=lambda weight: 2 * weight)
    parametrization = nn.Module()
    parametrization.forward = count
    nn.utils.parametrize.register_parametrization(layer, "weight", parametrization)
    count.reset_mock()
    with counted() as calls:
        layer(torch.randn(5, 4, 8, 8)).sum().backward()
    assert (count.call_count, calls.call_count) == (1, 1)
    assert layer.parametrizations.weight.original.grad.any()


# ---------------------------------------------------------------- where it pays


def test_auto_folds_many_rows_on_a_short_weight():
    layer = configure(hat.HATConv2d(4, 6, 3, padding=1, pool=nn.MaxPool2d(2)), fold="auto")
    with counted() as calls:
        layer(torch.randn(1, 4, 11, 11))  # 121 rows, 36 columns
        assert not calls.called
        layer(torch.randn(2, 4, 11, 11))
        assert calls.call_count == 1
        with torch.no_grad():
            layer(torch.randn(2, 4, 11, 11))
    assert calls.call_count == 1


def test_auto_folds_a_gate_behind_an_activation_only_on_a_cpu():
    rows, pool = 1000, nn.MaxPool2d(2)
    assert pays(torch.empty(6, 4, 3, 3, device="meta"), rows, pool, "relu")
    assert pays(torch.empty(6, 4, 3, 3, device="meta"), rows, None, "identity")
    assert not pays(torch.empty(6, 4, 3, 3, device="meta"), rows, None, "relu")
    assert pays(torch.empty(6, 4, 3, 3), rows, None, "relu")


# ---------------------------------------------------------------- several tasks


def body():
    return wired(
        hat.HATConv2d(2, 6, 3, padding=1, pool=nn.MaxPool2d(2)),
        hat.HATConv2d(6, 8, 3, padding=1, groups=2, bias=False, activation="leaky_relu", pool=nn.AvgPool2d(2)),
        hat.HATConv2d(8, 6, 3, padding=1, activation="identity"),
        nn.Flatten(),
        hat.HATLinear(24, 5),
    )


def draws(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(fold, *, autocast=False, tasks=3, steps=3, **config):
    """(model, number of tasks that folded a weight); after every task, all earlier tasks are compared bit for bit."""
    torch.manual_seed(0)
    model = hat.HATModel(body(), config=hat.GateConfig(fold=fold, s_max=50.0, **config)).to(DEVICE)
    probes, folding = hat.Probes(), 0
    for task in range(tasks):
        torch.manual_seed(task)
        model.begin_task(3)
        with torch.no_grad():  # a third of the units a task, the first unit in the last of them
            for gate in model.gates.values():
                gate.embedding.copy_(torch.where(gate.origin % 3 == tasks - 1 - task, 1.0, -1.0))
            features = hat.network.moving.expanded(model.outputs.origin, model.features // model.outputs.units)
            model.head.weight.copy_(draws((3, model.features), task).to(DEVICE)[:, features])
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        x, y = draws((4, 2, 8, 8), 100 + task).to(DEVICE), (torch.arange(4) % 3).to(DEVICE)
        with counted() as calls:
            for step in range(steps):
                model.train().anneal(step / (steps - 1))
                with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
                    loss = F.cross_entropy(model(x).float(), y) + 0.75 * model.penalty()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        folding += calls.called
        model.end_task()
        assert not probes.tasks or hat.verify(model, probes).exact
        probes.add(model, task, x)
    return model, folding


def same(got, expected, tolerance):
    for name, value in expected.state_dict().items():
        if name != "_extra_state":  # it has checksums of bits
            mine = got.state_dict()[name]
            largest = value.abs().max() if value.numel() else 0
            assert ((mine - value).abs() <= tolerance * (1 + largest)).all(), name


@pytest.mark.parametrize(
    ("config", "folding"), [({}, 3), ({"locked_first": False}, 3), ({"mask_mode": "published"}, 3)]
)
def test_the_same_training(config, folding):
    """The grouped convolution folds in all tasks, because the units of a task are not whole groups."""
    forgets = config.get("mask_mode") == "published"
    with mock.patch.object(hat, "verify", return_value=mock.Mock(exact=True)) if forgets else contextlib.nullcontext():
        (unfolded, none), (folded, some) = (trained(fold, **config) for fold in ("never", "always"))
    assert (none, some) == (0, folding)
    same(folded, unfolded, 1e-4)


def test_the_same_training_under_autocast():
    """The error against float32 is as small as without folding."""
    expected, (theirs, _), (got, folding) = (
        trained("never")[0],
        trained("never", autocast=True),
        trained("always", autocast=True),
    )
    assert folding == 3
    mine, others, true = (model.state_dict() for model in (got, theirs, expected))
    for name, value in true.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            spread = (others[name] - value).abs().max() + torch.finfo(torch.bfloat16).eps * value.abs().max()
            assert (mine[name] - value).abs().max() <= 2 * FACTOR * spread, name


@pytest.mark.kernel
def test_the_same_training_on_the_kernels():
    with hat_kernels.backend("reference"):
        expected, _ = trained("never", tasks=2, steps=2)
    with hat_kernels.backend("triton"):
        got, folding = trained("always", tasks=2, steps=2)
    assert folding == 2
    same(got, expected, 1e-3)


def test_unknown_fold():
    with pytest.raises(ValueError, match=r"fold: expected one of \('auto', 'always', 'never'\), got 'some'"):
        hat.GateConfig(fold="some")
