"""The whole library on a GPU: nothing forgotten, nothing waited for, steps that a graph can replay."""

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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_captured_step_is_the_eager_one(name):
    results = []
    for captured in (False, True):
        torch.manual_seed(0)
        model = hat.HATModel(hat.models.mlp(48, (64, 56), input_dropout=0.0, dropout=0.0)).cuda()
        x, y = torch.randn(BATCH, 48, device="cuda"), torch.arange(BATCH, device="cuda") % 3
        model.begin_task(3)
        optimizer = OPTIMIZERS[name](model.task_parameters())
        model.anneal(0.01)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(model, optimizer, x, y)
            if captured:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    step(model, optimizer, x, y)
                for _ in range(3):
                    graph.replay()
            else:
                for _ in range(3):
                    step(model, optimizer, x, y)
        torch.cuda.synchronize()
        results.append([p.detach().clone() for p in model.parameters()])
    for eager, replayed in zip(*results, strict=True):
        assert torch.equal(eager, replayed)


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
