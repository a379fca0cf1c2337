"""The whole step as one callable: bit by bit the loop written by hand; the same as a graph; and it never waits."""

from functools import partial
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

import hat
from hat.graphs import Graphs, kind_of
from tests.hat.tape import Tape, as_on_a_gpu

CLASSES, BATCH, STEPS = 2, 5, 7
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="emulates a GPU; test_gpu.py has one")
kernels = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value"),
    interpreted,
]

LAUNCHES = {
    ("sgd", True): 31,
    ("sgd", False): 35,
    ("momentum", True): 29,
    ("momentum", False): 33,
    ("adamw", True): 35,
    ("adamw", False): 39,
}
"""Of an MLP with two hidden layers in its second task, all told; by our matmuls (True) or the vendor's."""

OPTIMIZERS = {
    "sgd": lambda model: hat.optim.SGD(model.task_parameters(), lr=0.1, max_norm=1.0),
    "momentum": lambda model: hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda model: hat.optim.AdamW(model.task_parameters(), lr=0.01, max_norm=1.0),
    "guarded": lambda model: hat.guard(torch.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9), model),
}


def make(*, input_dropout=0.2, dropout=0.5):
    torch.manual_seed(0)
    body = hat.models.mlp(6, (9, 7), input_dropout=input_dropout, dropout=dropout)
    return hat.HATModel(body, config=hat.GateConfig(s_max=50.0))


def batch(number, size=BATCH):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 6, generator=generator)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def end(model):
    """A third of the units a task: something is locked, something left."""
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.arange(len(embedding)) % 3 == model.task, 2.0, -2.0))
    model.end_task()


def by_hand(model, optimizer, x, y, progress):
    model.anneal(progress)
    loss, penalty = F.cross_entropy(model(x), y), model.penalty()
    optimizer.zero_grad()
    (loss + 0.75 * penalty).backward()
    optimizer.step()
    return loss.item(), penalty.item()


def learn(optimizer, *, tasks=2, step=None, each=lambda number, optimizer: None, sizes=(BATCH,) * STEPS, **net):
    """(model, losses): trained by `step(model, optimizer)`, or by hand."""
    model, losses = make(**net), []
    for _ in range(tasks):
        model.begin_task(CLASSES)
        own = OPTIMIZERS[optimizer](model)
        call = None if step is None else step(model, own)
        for number, size in enumerate(sizes):
            x, y = batch(number, size)
            progress = number / (len(sizes) - 1)
            got = by_hand(model, own, x, y, progress) if call is None else call(x, y, progress=progress)
            losses.append(tuple(map(float, got)))
            each(number, own)
        end(model)
    return model, losses


def assert_equal(one, other):
    assert one[1] == other[1]
    for (name, a), b in zip(one[0].state_dict().items(), other[0].state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_step_is_the_loop_written_by_hand(optimizer):
    assert_equal(learn(optimizer), learn(optimizer, step=hat.TrainStep))


def slower(number, optimizer):
    """A rate that falls, as the recipe has it."""
    if number == 4:
        for group in optimizer.param_groups:
            group["lr"] /= 3


def as_a_graph(model, optimizer):
    return hat.TrainStep(model, optimizer, graph=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", [pytest.param("triton", marks=kernels)])
def test_a_graph_is_the_step(optimizer, backend):
    """Scale, rate, counters and dropout go on in a recording; a task that ends makes a new one."""
    with as_on_a_gpu(backend) as recorder:
        eager = learn(optimizer, step=hat.TrainStep, each=slower)
        assert not recorder.tapes
        graph = learn(optimizer, step=as_a_graph, each=slower)
    assert_equal(eager, graph)
    assert len(recorder.tapes) == 2


@pytest.mark.parametrize("backend", [pytest.param("triton", marks=kernels)])
def test_every_batch_shape_has_its_graph(backend):
    sizes = (5, 3, 5, 3, 5, 3, 5, 3, 5, 3)
    with as_on_a_gpu(backend) as recorder:
        graph = learn("sgd", tasks=1, step=as_a_graph, sizes=sizes)
        assert len(recorder.tapes) == 2
        assert_equal(learn("sgd", tasks=1, step=hat.TrainStep, sizes=sizes), graph)


@pytest.mark.parametrize("backend", [pytest.param("triton", marks=kernels)])
def test_another_option_is_recorded_anew(backend):
    def stiffer(number, optimizer):
        if number == 3:
            optimizer.param_groups[0]["weight_decay"] = 0.3

    sizes = (BATCH,) * 9
    with as_on_a_gpu(backend) as recorder:
        graph = learn("momentum", tasks=1, step=as_a_graph, each=stiffer, sizes=sizes)
        assert len(recorder.tapes) == 2
        assert_equal(learn("momentum", tasks=1, step=hat.TrainStep, each=stiffer, sizes=sizes), graph)


@pytest.mark.parametrize("backend", [pytest.param("triton", marks=kernels)])
def test_a_graph_leaves_no_gradient_behind(backend):
    def bare(number, optimizer):
        assert all(p.grad is None for group in optimizer.param_groups for p in group["params"])

    with as_on_a_gpu(backend):
        learn("sgd", tasks=1, step=as_a_graph, each=bare)


@pytest.mark.parametrize(("name", "matmuls"), LAUNCHES)
@pytest.mark.parametrize("backend", [pytest.param("triton", marks=kernels)])
def test_a_step_does_not_wait_and_launches_no_more_than_this(name, matmuls, backend):
    with as_on_a_gpu(backend, matmuls=matmuls):
        model = make()
        model.begin_task(CLASSES)
        end(model)
        model.begin_task(CLASSES)
        step, data = hat.TrainStep(model, OPTIMIZERS[name](model)), batch(0)
        for _ in range(2):
            step(*data, progress=0.5)
        tape = Tape(keep=False)
        with tape.recording():
            step(*data, progress=0.75)
    assert tape.waits == []
    tables = tape.launches.pop("copy of a table", 0)  # of gradients that lie elsewhere than in the step before
    assert tables <= 3
    assert tape.launches.total() == LAUNCHES[name, matmuls], tape.launches


@pytest.mark.parametrize("backend", [pytest.param("triton", marks=kernels)])
def test_a_loss_scale_does_not_wait_either(backend):
    with as_on_a_gpu(backend) as recorder:
        model = make()
        model.begin_task(CLASSES)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        step = hat.TrainStep(model, OPTIMIZERS["adamw"](model), scaler=scaler, graph=True)
        losses = [step(*batch(number), progress=0.5).task.item() for number in range(5)]
    assert len(recorder.tapes) == 1
    assert recorder.tapes[0].waits == []
    assert len(set(losses)) == 5


# -- where there is no graph --------------------------------------------------------------------------------------


def test_on_a_cpu_it_says_once_that_there_is_no_graph():
    with pytest.warns(hat.GraphWarning, match="training step is no graph: expected a GPU, got tensors on cpu") as seen:
        graph = learn("sgd", tasks=1, step=as_a_graph)
    assert len(seen) == 1
    eager = learn("sgd", tasks=1, step=hat.TrainStep)
    assert_equal(eager, graph)


def test_a_function_that_waits_is_not_recorded():
    with as_on_a_gpu("reference") as recorder:
        graphs = Graphs(lambda x: x + x.sum().item(), what="it", warm=2)
        with pytest.warns(hat.GraphWarning, match="it is no graph: it waits for _local_scalar_dense") as seen:
            results = [graphs("key", torch.full((2,), float(n))) for n in range(5)]
    assert [r[0].item() for r in results] == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert not recorder.tapes
    assert len(seen) == 1


def test_a_recording_that_fails_falls_back():
    with as_on_a_gpu("reference") as recorder:
        recorder.record = mock.Mock(side_effect=RuntimeError("operation not permitted\nand more"))
        graphs = Graphs(lambda x: x + 1, what="it", warm=1)
        with pytest.warns(hat.GraphWarning, match="it is no graph: RuntimeError: operation not permitted; it runs"):
            results = [graphs("key", torch.full((2,), float(n)))[0].item() for n in range(4)]
    assert results == [1.0, 2.0, 3.0, 4.0]
    assert recorder.record.call_count == 1


def test_too_many_kinds_of_input():
    with as_on_a_gpu("reference") as recorder:
        graphs = Graphs(lambda x: x + 1, what="it", warm=1, most=2)
        inputs = [torch.arange(n % 4 + 1.0) for n in range(12)]
        with pytest.warns(hat.GraphWarning, match="expected at most 2 kinds of input, got one more") as seen:
            results = [graphs(kind_of(x), x) for x in inputs]
    assert all(torch.equal(result, x + 1) for result, x in zip(results, inputs, strict=True))
    assert len(recorder.tapes) == 2
    assert len(seen) == 1


def test_a_result_is_the_callers_own():
    with as_on_a_gpu("reference"):
        graphs = Graphs(lambda x: x * 2, what="it", warm=1)
        kept = [graphs("key", torch.full((1,), float(n))) for n in range(4)]
    assert [value.item() for value in kept] == [0.0, 2.0, 4.0, 6.0]


# -- what it refuses ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_moves_nothing():
    model = make()
    model.begin_task(CLASSES)
    step = hat.TrainStep(model, OPTIMIZERS["momentum"](model))
    before = {name: value.clone() for name, value in model.state_dict().items() if name != "state.scale"}
    x, y = batch(0)
    with pytest.raises(hat.NonFiniteLossError, match="loss: expected finite, got nan"):
        step(x * torch.nan, y, progress=0.0)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_refused():
    model = make()
    with pytest.raises(ValueError, match=r"lamb: expected >= 0, got -1"):
        hat.TrainStep(model, None, lamb=-1)
    model.begin_task(CLASSES)
    step = hat.TrainStep(model, OPTIMIZERS["sgd"](model))
    x, y = batch(0)
    with pytest.raises(ValueError, match="x: expected a tensor on cpu as the model, got meta"):
        step(x.to("meta"), y)
    with pytest.raises(ValueError, match="y: expected a tensor on cpu as the model, got meta"):
        step(x, y.to("meta"))
    with pytest.raises(ValueError, match=r"progress: expected in \[0, 1\], got 2"):
        step(x, y, progress=2)
    with pytest.raises(ValueError, match="task: expected 0 to 0, got 3"):
        step(x, y, task=3)
    end(model)
    with pytest.raises(RuntimeError, match="step: no task is being learned"):
        step(x, y)


# -- options ------------------------------------------------------------------------------------------------------


def test_without_a_progress_the_scale_stays():
    model = make()
    model.begin_task(CLASSES)
    model.anneal(0.25)
    scale = model.state.scale.item()
    hat.TrainStep(model, OPTIMIZERS["sgd"](model))(*batch(0))
    assert model.state.scale.item() == scale


def test_another_loss_and_weight():
    def squared(logits, y):
        return ((logits - y[:, None]) ** 2).mean()

    results = []
    for lamb in (0.0, 3.0):
        model = make()
        model.begin_task(CLASSES)
        step = hat.TrainStep(model, OPTIMIZERS["sgd"](model), squared, lamb=lamb)
        losses = [step(*batch(number), progress=0.5) for number in range(5)]
        results.append(losses[-1].penalty.item())
        torch.manual_seed(0)
    assert results[1] < results[0]


def test_autocast():
    model = make()
    model.begin_task(CLASSES)
    seen = []
    model.body.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses = hat.TrainStep(model, OPTIMIZERS["sgd"](model), autocast=torch.bfloat16)(*batch(0), progress=0.5)
    assert seen == [torch.bfloat16]
    assert losses.task.dtype == losses.penalty.dtype == torch.float32


@pytest.mark.usefixtures("one_thread")
def test_compiled():
    torch._dynamo.reset()
    still = {"input_dropout": 0.0, "dropout": 0.0}  # compiled code draws other numbers
    with mock.patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        compiled = learn("momentum", step=lambda *both: hat.TrainStep(*both, compile=True), **still)
    eager = learn("momentum", step=hat.TrainStep, **still)
    for (name, a), b in zip(compiled[0].state_dict().items(), eager[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}")
