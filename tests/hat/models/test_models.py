"""The networks of `hat.models`: shapes, kernels and sizes; they forget nothing."""

import itertools

import pytest
import torch
from torch import nn

import hat
from hat.layers.stochastic_depth import StochasticDepth
from hat.models.resnet import plain_resnet
from hat.units.locks import locks
from hat.units.per_task import per_task


def count(body):
    return sum(p.numel() for name, p in body.named_parameters() if not name.endswith("embedding"))


@pytest.mark.parametrize("hidden", [(5,), (7, 5), (3, 4, 5, 6), (1, 1)])
def test_mlp(hidden):
    body = hat.models.mlp(12, hidden)
    widths = [12, *hidden]
    assert count(body) == sum(a * b + b for a, b in itertools.pairwise(widths))
    assert body(torch.randn(3, 2, 6)).shape == (3, hidden[-1])
    layers = [m for m in body.modules() if isinstance(m, hat.HATLinear)]
    locks_by_parameter = locks(body)
    assert locks_by_parameter[layers[0].weight].columns is None
    for before, layer in itertools.pairwise(layers):
        assert torch.equal(locks_by_parameter[layer.weight].columns, before.gate.free)
        assert locks_by_parameter[layer.weight].column_repeat == 1


def test_the_papers_mlp():
    assert count(hat.models.mlp(784)) == 784 * 2000 + 2000 + 2000 * 2000 + 2000


def test_mlp_dropout_and_activation():
    body = hat.models.mlp(4, (3, 3), input_dropout=0.25, dropout=0.125, activation="gelu")
    assert [m.p for m in body.modules() if isinstance(m, nn.Dropout)] == [0.25]
    assert [(m.dropout, m.activation) for m in body.modules() if isinstance(m, hat.HATLinear)] == [(0.125, "gelu")] * 2


@pytest.mark.parametrize("arguments", [(4, ()), (4, (3, 0)), (0, (3,)), (4, (-1,))])
def test_mlp_widths(arguments):
    with pytest.raises(ValueError, match="hidden: expected at least one width, all positive, got"):
        hat.models.mlp(*arguments)


def test_mlp_options():
    with pytest.raises(ValueError, match="dropout"):
        hat.models.mlp(4, (3,), dropout=1.0)
    with pytest.raises(ValueError, match="input_dropout: expected in"):
        hat.models.mlp(4, (3,), input_dropout=1.0)
    with pytest.raises(ValueError, match="activation"):
        hat.models.mlp(4, (3,), activation="swish")


@pytest.mark.parametrize(
    ("size", "kernels", "last"),
    [(28, (3, 2, 2), 2), (32, (4, 3, 2), 2), (64, (8, 6, 2), 5), (16, (2, 1, 2), 1)],
)
def test_alexnet(size, kernels, last):
    body = hat.models.alexnet((3, size, size), channels=(4, 5, 6), hidden=(8, 7))
    convs = [m for m in body.modules() if isinstance(m, hat.HATConv2d)]
    assert [m.kernel_size for m in convs] == [(k, k) for k in kernels]
    linear = [m for m in body.modules() if isinstance(m, hat.HATLinear)]
    assert linear[0].in_features == 6 * last * last
    assert body(torch.randn(2, 3, size, size)).shape == (2, 7)
    locks_by_parameter = locks(body)
    assert locks_by_parameter[convs[0].weight].columns is None
    assert torch.equal(locks_by_parameter[convs[1].weight].columns, convs[0].gate.free)
    assert locks_by_parameter[linear[0].weight].column_repeat == last * last
    assert [m.dropout for m in [*convs, *linear]] == [0.2, 0.2, 0.5, 0.5, 0.5]
    assert [(m.activation, type(m.pool)) for m in convs] == [("relu", nn.MaxPool2d)] * 3
    kinds = {type(m) for m in body.network.children()}
    assert kinds == {hat.HATConv2d, nn.Flatten, hat.HATLinear}  # the convolutions take in activation, dropout and pool


def test_the_papers_alexnet():
    """32 x 32 colour images: 64, 128, 256 channels, two layers of 2048; about 6.5 million weights."""
    body = hat.models.alexnet((3, 32, 32))
    convolutions = 64 * 3 * 16 + 64 + 128 * 64 * 9 + 128 + 256 * 128 * 4 + 256
    assert count(body) == convolutions + 1024 * 2048 + 2048 + 2048 * 2048 + 2048


@pytest.mark.parametrize("size", [12, 13, 15])
def test_alexnet_of_the_smallest_images_named_in_its_error(size):
    body = hat.models.alexnet((1, size, size), channels=(2, 2, 2), hidden=(3,), dropout=(0.0,) * 4)
    assert body(torch.randn(2, 1, size, size)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(3, 32, 28), (32, 32), (3, 32, 32, 32)])
def test_alexnet_shape(shape):
    with pytest.raises(ValueError, match=r"input_shape: expected \(C, H, W\) with H = W, got"):
        hat.models.alexnet(shape)


@pytest.mark.parametrize("size", [1, 4, 7, 8, 9, 10, 11])
def test_alexnet_too_small(size):
    with pytest.raises(
        ValueError, match=rf"input_shape: expected images of 12 x 12 or more, got \(3, {size}, {size}\)"
    ):
        hat.models.alexnet((3, size, size))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": (4, 5)},
        {"hidden": ()},
        {"dropout": (0.1,) * 4},
        {"hidden": (8,)},
        {"hidden": (8, 8, 8)},
        {"channels": (1, 2, 3, 4)},
    ],
)
def test_alexnet_lengths(options):
    with pytest.raises(ValueError, match="dropout: expected one per layer"):
        hat.models.alexnet((3, 32, 32), **options)


@pytest.mark.parametrize(
    ("shape", "options", "name"),
    [
        ((3, 32, 32), {"channels": (4, 0, 5)}, "channels"),
        ((3, 32, 32), {"channels": (4, 5, -1)}, "channels"),
        ((3, 32, 32), {"hidden": (8, 0)}, "hidden"),
        ((0, 32, 32), {}, "input_shape"),
    ],
)
def test_alexnet_widths(shape, options, name):
    with pytest.raises(ValueError, match=f"{name}: expected positive numbers, got"):
        hat.models.alexnet(shape, **options)


def test_units_may_move_of_a_network_that_is_made_under_autocast():
    """Autocast keeps weights that it has cast: in the trial of other places they were those from before the move."""
    with torch.autocast("cpu", torch.bfloat16):
        body = hat.models.mlp(20, (13, 7))
    assert [gate.segments for gate in body.gates.values()] == [None, None]


TINY = {
    "resnet18": lambda **options: hat.models.resnet18((3, 16, 16), **{"width": 4, **options}),
    "resnet50": lambda **options: hat.models.resnet50((3, 16, 16), **{"width": 3, **options}),
    "vit": lambda **options: hat.models.vit((3, 16, 16), **{"features": 12, "depth": 2, "heads": 3, **options}),
}


def plain_count(body):
    """The number of weights of the plain network."""
    per_task_count = sum(p.numel() for module in per_task(body).values() for p in module.parameters(recurse=False))
    return per_task_count + sum(p.numel() for p in locks(body))


@pytest.mark.parametrize(
    ("make", "depths", "convolutions", "features"),
    [
        (hat.models.resnet18, (2, 2, 2, 2), 2, 8),
        (hat.models.resnet34, (3, 4, 6, 3), 2, 8),
        (hat.models.resnet50, (3, 4, 6, 3), 3, 32),
    ],
)
def test_resnet_counts(make, depths, convolutions, features):
    """Every convolution of a block except the last one has a gate, and so has the stream of every stage."""
    body = make((3, 8, 8), width=2)
    model = hat.HATModel(body)
    streams = 4 + (make is hat.models.resnet50)  # a bottleneck widens the stream of the stem at once
    assert len(model.gates) == sum(depths) * (convolutions - 1) + streams
    layers = [module for module in body.modules() if isinstance(module, hat.HATConv2d)]
    assert len(layers) == 1 + sum(depths) * convolutions + streams - 1
    assert model.features == body.features == features * 2
    assert body(torch.randn(3, 3, 8, 8)).shape == (3, model.features)


def test_the_papers_resnets():
    """Parameters of the ImageNet networks without their heads: 11.7 M - 513 k, 25.6 M - 2 049 k."""
    for layers, count in ((18, 11_176_512), (50, 23_508_032)):
        assert sum(p.numel() for p in plain_resnet(layers, (3, 16, 16), stem="image").parameters()) == count


@pytest.mark.parametrize(
    ("size", "stem", "last"), [(32, "auto", 4), (64, "auto", 8), (65, "auto", 3), (32, "image", 1), (96, "small", 12)]
)
def test_resnet_stem(size, stem, last):
    body = hat.models.resnet18((1, size, size), width=2, stem=stem)
    seen = {}
    pool = body.network.get_submodule("pool")
    pool.register_forward_hook(lambda module, inputs, output: seen.update(size=inputs[0].shape[-1]))
    body(torch.randn(2, 1, size, size))
    assert seen == {"size": last}


def test_images_need_not_be_square():
    assert hat.models.resnet18((1, 16, 24), width=2)(torch.randn(2, 1, 16, 24)).shape == (2, 16)
    assert hat.models.vit((1, 8, 12), features=6, depth=1)(torch.randn(2, 1, 8, 12)).shape == (2, 6)


def test_blocks_start_as_the_identity():
    closed, open_ = (
        [
            module.weight.detach().abs().max().item()
            for name, module in TINY["resnet18"](zero_init=zero_init).named_modules()
            if name.endswith("branch.4")
        ]
        for zero_init in (True, False)
    )
    assert closed == [0.0] * 8
    assert open_ == [1.0] * 8


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_vit(pool):
    body = hat.models.vit((3, 16, 16), patch=4, features=12, depth=2, heads=3, hidden=20, pool=pool)
    model = hat.HATModel(body)
    assert [gate.units for gate in model.gates.values()] == [12, *(12, 12, 20) * 2]
    assert model.features == 12
    assert body(torch.randn(2, 3, 16, 16)).shape == (2, 12)
    token = pool == "token"
    block = 4 * (12 * 12 + 12) + 2 * 12 * 20 + 20 + 12 + 4 * 12
    assert plain_count(body) == 12 * 3 * 16 + 12 + (16 + token) * 12 + token * 12 + 2 * block + 24
    locks_by_parameter = locks(body)
    for name in ("query", "key", "value"):
        weight = body.get_submodule(f"network.blocks.1.attention.{name}").weight
        assert torch.equal(locks_by_parameter[weight].columns, next(iter(model.gates.values())).free)


def test_vit_drops_in_training_alone():
    body = TINY["vit"](dropout=0.5, stochastic_depth=0.5)
    x = torch.randn(2, 3, 16, 16)
    assert [m.p for m in body.modules() if isinstance(m, StochasticDepth)] == [0.5]  # the first block has none
    assert not torch.equal(body.train()(x), body(x))
    assert torch.equal(body.eval()(x), body(x))


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_converted_networks_are_the_same_for_the_same_seed(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(TINY[name]().state_dict())
        states[-1]["next random number"] = torch.rand(1)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", TINY)
def test_converted_networks_forget_nothing(name):
    torch.manual_seed(0)
    model = hat.HATModel(TINY[name](dropout=0.1))
    x, y, probes = torch.randn(8, 3, 16, 16), torch.arange(8) % 2, hat.Probes()
    for task in range(3):
        model.begin_task(classes=2)
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        before = [p.clone() for p in model.task_parameters()]
        for progress in (0.0, 0.5, 1.0):
            model.anneal(progress)
            loss = nn.functional.cross_entropy(model(x), y) + 0.75 * model.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert any(not torch.equal(p, q) for p, q in zip(before, model.task_parameters(), strict=True))
        with torch.no_grad():
            for embedding in model.embeddings:  # every task uses a third of the units
                embedding.copy_(torch.where((torch.arange(embedding.numel()) + task) % 3 == 0, 1.0, -1.0))
        model.end_task()
        probes.add(model, task, x)
    assert hat.verify(model, probes).exact


@pytest.mark.parametrize("make", [hat.models.resnet18, hat.models.resnet34, hat.models.resnet50])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"stem": "large"}, "stem: expected one of .*, got 'large'"),
        ({"dropout": 1.0}, "dropout: expected"),
    ],
)
def test_resnet_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make((3, 32, 32), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, "patch: expected one that divides 32 x 32, got 5"),
        ({"patch": 0}, "patch: expected at least 1, got 0"),
        ({"features": 100}, "features: expected a multiple of 3 heads, got 100"),
        ({"depth": 0}, "depth: expected at least 1, got 0"),
        ({"heads": 0}, "heads: expected at least 1, got 0"),
        ({"hidden": 0}, "hidden: expected at least 1, got 0"),
        ({"pool": "max"}, "pool: expected one of .*, got 'max'"),
        ({"dropout": -0.1}, "dropout: expected"),
        ({"stochastic_depth": 1.0}, "stochastic_depth: expected"),
    ],
)
def test_vit_options(options, message):
    with pytest.raises(ValueError, match=message):
        hat.models.vit((3, 32, 32), **options)


@pytest.mark.parametrize("make", [hat.models.resnet18, hat.models.vit])
@pytest.mark.parametrize("shape", [(32, 32), (3, 0, 32), (3, 32, 32, 32)])
def test_shape_of_converted_networks(make, shape):
    with pytest.raises(ValueError, match=r"input_shape: expected \(C, H, W\), all positive, got"):
        make(shape)


@pytest.mark.parametrize("name", ["mlp", "alexnet", "resnet18", "vit"])
def test_a_network_without_values_is_made_on_the_meta_device(name):
    """Its tensors get values later, as of any module: by `to_empty` and a `state_dict`."""
    shape = (1, 16, 16)
    sizes = {
        "mlp": {"hidden": (5,)},
        "alexnet": {"channels": (2, 3, 4), "hidden": (5, 5)},
        "resnet18": {"width": 2},
        "vit": {"depth": 1},
    }[name]
    make = getattr(hat.models, name)
    argument = 256 if name == "mlp" else shape
    model = hat.HATModel(make(argument, **sizes)).eval()
    with torch.device("meta"):
        empty = hat.HATModel(make(argument, **sizes)).eval()
    assert all(tensor.is_meta for tensor in empty.body.parameters())
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    for network in (model, empty):
        network.begin_task(3)
        network.eval()
    empty.load_state_dict(model.state_dict())
    x = torch.randn(2, *((256,) if name == "mlp" else shape))
    assert torch.equal(empty(x), model(x))
