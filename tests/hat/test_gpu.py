"""The whole library on a GPU: nothing forgotten, nothing waited for, steps that a graph can replay."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

import hat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device"),
]

BATCH = 16
OPTIMIZERS = {
    "sgd": lambda p: hat.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, max_norm=1.0),
    "adamw": lambda p: hat.optim.AdamW(p, lr=0.01, weight_decay=0.1, max_norm=1.0),
    "guarded": lambda p: hat.guard(torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01), p.model),
}
NETWORKS = {
    "mlp": (lambda: hat.models.mlp(48, (64, 56)), (48,)),
    "alexnet": (lambda: hat.models.alexnet((3, 16, 16), channels=(8, 12, 16), hidden=(32, 24)), (3, 16, 16)),
}


def make(network):
    torch.manual_seed(0)
    body, shape = NETWORKS[network]
    model = hat.HATModel(body()).cuda()
    return model, torch.randn(BATCH, *shape, device="cuda"), torch.arange(BATCH, device="cuda") % 3


def step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y) + 0.75 * model.penalty()
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return loss


def draw_units(model):
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.rand_like(embedding) < 0.4, 1.0, -1.0))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_is_forgotten(network, name):
    model, x, y = make(network)
    probes = hat.Probes()
    for _ in range(3):
        model.begin_task(3)
        optimizer = OPTIMIZERS[name](model.task_parameters())
        for progress in (0.0, 0.5, 1.0):
            model.anneal(progress)
            assert torch.isfinite(step(model, optimizer, x, y))
        draw_units(model)
        probes.add(model, model.end_task(), x)
        assert hat.verify(model, probes).exact, str(hat.verify(model, probes))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_does_not_wait_for_the_device(name):
    model, x, y = make("mlp")
    model.begin_task(3)
    draw_units(model)
    model.end_task()
    model.begin_task(3)
    optimizer = OPTIMIZERS[name](model.task_parameters())
    step(model, optimizer, x, y)  # compiles, and fills the tables
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.anneal(0.5)
        step(model, optimizer, x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def learn(network, name, **options):
    """(model, losses) after two tasks of two batch shapes, a falling rate and a rising scale."""
    model, x, y = make(network)
    losses = []
    for _ in range(2):
        model.begin_task(3)
        optimizer = OPTIMIZERS[name](model.task_parameters())
        train = hat.TrainStep(model, optimizer, **options)
        for number in range(12):
            size = BATCH if number % 3 else BATCH // 2
            losses.append(train(x[:size], y[:size], progress=number / 11))
            if number == 8:
                optimizer.param_groups[0]["lr"] /= 3
        draw_units(model)
        model.end_task()
    return model, [value.item() for pair in losses for value in pair]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_is_the_eager_step(network, name):
    """With the same bits, dropout included."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.GraphWarning)
        graph, its = learn(network, name, graph=True)
    eager, theirs = learn(network, name)
    assert its == theirs
    for (parameter, a), b in zip(graph.state_dict().items(), eager.state_dict().values(), strict=True):
        assert torch.equal(a, b), parameter


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_graph_in_half_precision(dtype):
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16, init_scale=2.0**8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.GraphWarning)
        _, losses = learn("alexnet", "sgd", graph=True, autocast=dtype, scaler=scaler)
    assert all(map(math.isfinite, losses))


def test_a_step_that_waits_is_no_graph():
    """Gradients of float16 are looked at by the host where the optimizer cannot leave out a step by itself."""
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    with pytest.warns(hat.GraphWarning, match="it waits for the device"):
        learn("mlp", "guarded", graph=True, autocast=torch.float16, scaler=scaler)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_is_the_same_with_and_without_graphs(optimizer):
    results = []
    for graph in (True, False):
        config = hat.TrainConfig(epochs=2, batch_size=32, lr=0.01, optimizer=optimizer, device="cuda", graph=graph)
        torch.manual_seed(0)
        model = hat.HATModel(hat.models.mlp(64, (40, 30)))
        stream = hat.data.permuted("digits", tasks=2)
        results.append(hat.Trainer(model, stream, config, progress=False).run().history)
    (one, other) = results
    assert one.accuracy == other.accuracy
    assert one.drift == other.drift == [[0.0], [0.0, 0.0]]
    assert [row["loss"] for row in one.epochs] == [row["loss"] for row in other.epochs]


def test_a_gradient_scaler_leaves_out_a_step_that_overflows():
    model, x, y = make("mlp")
    model.begin_task(3)
    optimizer = OPTIMIZERS["sgd"](model.task_parameters())
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    before = [p.detach().clone() for p in model.parameters()]
    for factor, moves in ((torch.inf, False), (1.0, True)):
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(x), y) * factor
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert changed == moves
