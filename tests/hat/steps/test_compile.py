"""Gated networks under torch.compile: one graph, the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "mlp": (lambda: hat.models.mlp(8, (12, 10), input_dropout=0.0, dropout=0.0), (8,)),
    "alexnet": (
        lambda: hat.models.alexnet((3, 16, 16), channels=(4, 5, 6), hidden=(8, 7), dropout=(0.0,) * 5),
        (3, 16, 16),
    ),
}


def compiled(module):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def steps(model, call, x, y):
    """The losses of three steps."""
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1)
    losses = []
    for step in range(3):
        model.anneal(step / 2)
        loss = F.cross_entropy(call(x), y) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_evaluation_in_one_graph(name):
    make, shape = NETWORKS[name]
    x, y = torch.randn(4, *shape), torch.arange(4) % 3
    results = []
    for call in (lambda model: model, compiled):
        torch.manual_seed(1)
        model = hat.HATModel(make())
        logits = []
        for _ in range(2):
            model.begin_task(3)
            wrapped = call(model)
            losses = steps(model, wrapped, x, y)
            model.end_task()
            with torch.no_grad():
                logits.append(call(model)(x, task=0))
        results.append((losses, logits))
    (eager, kept), (traced, traced_logits) = results
    assert eager == pytest.approx(traced, rel=1e-5)
    for a, b in zip(kept, traced_logits, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_dropout_in_one_graph():
    layer = compiled(nn.Sequential(hat.models.mlp(8, (200,), dropout=0.5)))
    y = layer(torch.ones(64, 8))
    y.sum().backward()
    assert 0 < (y == 0).double().mean() < 1


def test_tasks_do_not_make_it_compile_again():
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (24, 20), dropout=0.0))
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    body = torch.compile(model.body, backend=count, fullgraph=True)
    for _ in range(12):
        model.begin_task(2)
        body(torch.randn(4, 6)).sum().backward()
        with torch.no_grad():
            for gate in model.gates.values():
                gate.embedding.fill_(-1)
                gate.embedding[(gate.free > 0).nonzero()[0]] = 1  # one more unit a task
        model.end_task()
    assert {gate.locked for gate in model.gates.values()} == {12}
    assert len(graphs) <= 2
