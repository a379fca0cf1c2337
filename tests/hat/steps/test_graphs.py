"""The step as a graph: it gives the same bits after every change, never waits, and warns if there is no graph."""

import copy
import warnings
import weakref
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

import hat
from hat.steps.graphs import CudaRecorder, Graphs, kind_of
from hat.training.evaluation import Answers, evaluate
from tests.hat.stepping import (
    CLASSES,
    OPTIMIZERS,
    assert_equal,
    batch,
    end,
    kernels,
    learn,
    make,
    on_kernels,
)
from tests.hat.tape import Tape, as_on_a_gpu

LAUNCHES = {
    ("sgd", True): 31,
    ("sgd", False): 35,
    ("momentum", True): 29,
    ("momentum", False): 33,
    ("adamw", True): 35,
    ("adamw", False): 39,
}
"""Of an MLP with two hidden layers in its second task, all told; by our matmuls (True) or the vendor's."""


def slower(number, optimizer):
    """Lower the learning rate after four steps, as the recipe does."""
    if number == 4:
        for group in optimizer.param_groups:
            group["lr"] /= 3


def as_a_graph(model, optimizer):
    return hat.TrainStep(model, optimizer, graph=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@on_kernels
def test_a_graph_is_the_step(optimizer):
    """In a recording, scale, rate, counters and dropout change from step to step. A new task needs a new recording."""
    each = (lambda *_: None) if optimizer == "guarded" else slower  # a recording of a guarded optimizer fixes the rate
    tasks = 2 if optimizer == "momentum" else 1
    with as_on_a_gpu() as recorder:
        eager = learn(optimizer, tasks=tasks, step=hat.TrainStep, each=each)
        assert not recorder.tapes
        graph = learn(optimizer, tasks=tasks, step=as_a_graph, each=each)
    assert_equal(eager, graph)
    assert len(recorder.tapes) == tasks


@on_kernels
def test_every_batch_shape_has_its_graph():
    sizes = (5, 3, 5, 3, 5, 3, 5, 3)
    with as_on_a_gpu() as recorder:
        graph = learn("sgd", tasks=1, step=as_a_graph, sizes=sizes)
        assert len(recorder.tapes) == 2
        assert_equal(learn("sgd", tasks=1, step=hat.TrainStep, sizes=sizes), graph)


@on_kernels
def test_a_graph_leaves_no_gradient_behind():
    def bare(number, optimizer):
        assert all(p.grad is None for group in optimizer.param_groups for p in group["params"])

    with as_on_a_gpu():
        learn("sgd", tasks=1, step=as_a_graph, each=bare)


@pytest.mark.parametrize(("name", "matmuls"), LAUNCHES)
@on_kernels
def test_a_step_does_not_wait_and_launches_no_more_than_this(name, matmuls):
    with as_on_a_gpu(matmuls=matmuls):
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


@on_kernels
def test_a_loss_scale_does_not_wait_either():
    with as_on_a_gpu() as recorder:
        model = make()
        model.begin_task(CLASSES)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        step = hat.TrainStep(model, OPTIMIZERS["adamw"](model), scaler=scaler, graph=True)
        losses = [step(*batch(number), progress=0.5).task.item() for number in range(5)]
    assert len(recorder.tapes) == 1
    assert recorder.tapes[0].waits == []
    assert len(set(losses)) == 5


def load_state(step):
    step.optimizer.load_state_dict(copy.deepcopy(step.optimizer.state_dict()))


def another_memory(step):
    weight = step.model.body.network.linear1.weight
    weight.data = weight.data.clone()


def freeze(step):
    step.model.body.network.linear1.bias.requires_grad_(False)


CHANGES = {
    "the state of the optimizer": load_state,
    "where a weight lies": another_memory,
    "what is trained": freeze,
    "the mode of a module": lambda step: step.model.body.network.dropout.eval(),
    "an option": lambda step: step.optimizer.param_groups[0].update(weight_decay=0.3),
    "lamb": lambda step: setattr(step, "lamb", 5.0),
    "the loss": lambda step: setattr(step, "loss", lambda logits, y: F.cross_entropy(logits, y, label_smoothing=0.3)),
    "the clip": lambda step: setattr(step.optimizer, "_max_norm", 1e-3),
    "autocast": lambda step: setattr(step, "autocast", torch.bfloat16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    model = make()
    model.begin_task(CLASSES)
    step = as_a_graph(model, hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9))
    with as_on_a_gpu("reference"):
        for number in range(4):
            step(*batch(number), progress=0.5)
        with mock.patch.object(step._graphs, "clear") as clear:
            step(*batch(4), progress=0.75)
            assert not clear.called
            CHANGES[change](step)
            step(*batch(5), progress=1.0)
            assert clear.called


@on_kernels
def test_a_graph_does_what_the_step_does_whatever_changes():
    def run(graph):
        model, losses = make(), []
        model.begin_task(CLASSES)
        step = hat.TrainStep(model, hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9), graph=graph)
        for number in range(8):
            if number == 6:
                load_state(step)
                another_memory(step)
                step.lamb = 5.0
            losses.append(step(*batch(number), progress=number / 7))
        return model, [tuple(map(float, pair)) for pair in losses]

    with as_on_a_gpu(matmuls=False) as recorder:
        graph = run(graph=True)
        assert len(recorder.tapes) == 1
        assert_equal(run(graph=False), graph)


@on_kernels
def test_a_graph_uses_no_memory_that_somebody_else_may_get():
    """A user keeps the gradients of an eager backward pass between two replays, and the replay must not write there."""

    def run(graph):
        model = make()
        model.begin_task(CLASSES)
        end(model)
        model.begin_task(CLASSES)
        step, kept = as_a_graph(model, OPTIMIZERS["sgd"](model)) if graph else None, []
        step = step or hat.TrainStep(model, OPTIMIZERS["sgd"](model))
        for number in range(6):
            step(*batch(number), progress=number / 5)
            if number > 3:
                F.cross_entropy(model(batch(number)[0]), batch(number)[1]).backward()
                kept.append([(p.grad, p.grad.clone()) for p in model.body.parameters() if p.grad is not None])
                for p in model.parameters():
                    p.grad = None
        assert all(torch.equal(grad, then) for grads in kept for grad, then in grads)
        return model, []

    with as_on_a_gpu(matmuls=False) as recorder:
        graph = run(graph=True)
        assert len(recorder.tapes) == 1
        assert_equal(run(graph=False), graph)


@on_kernels
def test_evaluation_is_recorded_once_and_follows_the_weights():
    part = hat.data.Part(torch.randn(21, 1, 2, 3), torch.arange(21) % CLASSES)
    config = hat.TrainConfig(eval_batch_size=5, device="cpu")
    model = make()
    with as_on_a_gpu() as recorder:
        model.begin_task(CLASSES)
        answers = Answers(model, 0, config)
        for _ in range(2):
            got = evaluate(model, part, 0, config, answers=answers)
            wanted = torch.cat([model.eval()(part.x[at : at + 5], task=0) for at in range(0, 21, 5)])
            assert torch.equal(got.logits, wanted)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(-1.5)
        assert len(recorder.tapes) == 2  # batches of 5, and at its second time the last one of 1
        assert recorder.tapes[0].waits == []
        model.train()
        end(model)
        evaluate(model, part, 0, config)
        assert len(recorder.tapes) == 3


# -- where there is no graph --------------------------------------------------------------------------------------


def test_on_a_cpu_it_says_once_that_there_is_no_graph():
    with pytest.warns(hat.GraphWarning, match="training step is no graph: expected a GPU, got tensors on cpu") as seen:
        graph = learn("sgd", tasks=1, step=as_a_graph)
    assert len(seen) == 1
    eager = learn("sgd", tasks=1, step=hat.TrainStep)
    assert_equal(eager, graph)


def test_a_function_that_waits_is_not_recorded():
    with as_on_a_gpu("reference") as recorder:
        graphs = Graphs(lambda x: x + x.sum().item(), name="it", warm=2)
        with pytest.warns(hat.GraphWarning, match="it is no graph: it waits for _local_scalar_dense") as seen:
            results = [graphs("key", torch.full((2,), float(n))) for n in range(5)]
    assert [r[0].item() for r in results] == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert not recorder.tapes
    assert len(seen) == 1


def test_a_recording_that_fails_falls_back():
    with as_on_a_gpu("reference") as recorder:
        recorder.record = mock.Mock(side_effect=RuntimeError("operation not permitted\nand more"))
        graphs = Graphs(lambda x: x + 1, name="it", warm=1)
        with pytest.warns(hat.GraphWarning, match="it is no graph: RuntimeError: operation not permitted; it runs"):
            results = [graphs("key", torch.full((2,), float(n)))[0].item() for n in range(4)]
    assert results == [1.0, 2.0, 3.0, 4.0]
    assert recorder.record.call_count == 1


class Refusing:
    """A recorder whose recording does not run, and whose optimizer then raises an error."""

    def __init__(self, recorder):
        self.recorder = recorder

    def __call__(self, function, inputs):
        def unexecuted(tensor, *_, **__):
            return torch.full_like(tensor, 777.0)

        refuse = mock.Mock(side_effect=RuntimeError("attempting capture of step()"))
        with (
            mock.patch.object(torch.Tensor, "clone", unexecuted),
            mock.patch("torch.optim.sgd.sgd", refuse),
            mock.patch("hat_kernels.sgd_update_", refuse),
        ):
            return function(*inputs)


@pytest.mark.parametrize(
    ("optimizer", "backend"), [("guarded", "reference"), pytest.param("in_backward", "triton", marks=kernels)]
)
def test_a_step_whose_recording_fails_forgets_nothing(optimizer, backend):
    """The copies of locked weights were recorded, not computed. They must not be written to the weights."""
    make_optimizer = OPTIMIZERS.get(
        optimizer, lambda model: hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    )
    torch.manual_seed(0)
    body = hat.models.mlp(6, (9, 7), input_dropout=0.0, dropout=0.0)
    model, probes = hat.HATModel(body, config=hat.GateConfig(s_max=50.0, locked_first=False)), hat.Probes()
    for _ in range(2):
        model.begin_task(CLASSES)
        with as_on_a_gpu(backend) as recorder, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            recorder.record = Refusing(recorder)
            step = as_a_graph(model, make_optimizer(model))
            for number in range(6):
                step(*batch(number), progress=0.5)
        assert ["attempting capture" in str(each.message) for each in seen if each.category is hat.GraphWarning] == [1]
        end(model)
        probes.add(model, model.tasks - 1, batch(99)[0])
    assert hat.verify(model, probes).exact, str(hat.verify(model, probes))


def test_an_optimizer_that_cannot_be_recorded_is_not():
    model = make()
    model.begin_task(CLASSES)
    step = as_a_graph(model, hat.guard(torch.optim.Adam(model.parameters()), model))
    with as_on_a_gpu("reference") as recorder:
        with pytest.warns(hat.GraphWarning, match="expected capturable=True of Adam, got False") as seen:
            losses = [step(*batch(number), progress=0.5) for number in range(6)]
        assert not recorder.tapes
    assert len(losses) == 6
    assert len(seen) == 1


def test_a_step_that_is_another_each_time_says_so():
    model = make()
    model.begin_task(CLASSES)
    optimizer = OPTIMIZERS["momentum"](model)
    step = as_a_graph(model, optimizer)

    def take_steps():
        for number in range(20):
            optimizer.param_groups[0]["momentum"] = 0.9 - number / 100
            step(*batch(number), progress=0.5)

    with as_on_a_gpu("reference") as recorder:
        with pytest.warns(hat.GraphWarning, match="has changed 8 times before it could be recorded") as seen:
            take_steps()
        assert not recorder.tapes
    assert len(seen) == 1


@on_kernels
def test_the_memory_of_graphs_goes_with_the_step():
    model = make()
    model.begin_task(CLASSES)
    with as_on_a_gpu():
        step = as_a_graph(model, OPTIMIZERS["sgd"](model))
        for number in range(5):
            step(*batch(number), progress=0.5)
        graphs = weakref.ref(step._graphs)
        del step
    assert graphs() is None


@pytest.mark.parametrize("text", ["called a synchronizing CUDA operation", "another warning"])
def test_the_recorder_knows_who_waits(text, monkeypatch):
    """PyTorch warns once that its debug mode does not see all synchronizing operations. This warning does not count."""

    def set_mode(mode):
        warnings.warn("set_sync_debug_mode does not yet detect all synchronizing uses", stacklevel=1)

    def function(x):
        warnings.warn(text, stacklevel=1)
        return x

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    recorder = CudaRecorder.__new__(CudaRecorder)
    recorder.run = lambda function, inputs: function(*inputs)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _, obstacle = recorder.obstacle(function, (torch.ones(1),))
    waits = text.startswith("called")
    assert obstacle.startswith("it waits for the device at") == waits
    assert [str(each.message) for each in seen] == ([] if waits else [text])


def test_too_many_kinds_of_input():
    with as_on_a_gpu("reference") as recorder:
        graphs = Graphs(lambda x: x + 1, name="it", warm=1, most=2)
        inputs = [torch.arange(n % 4 + 1.0) for n in range(12)]
        with pytest.warns(hat.GraphWarning, match="expected at most 2 kinds of input, got one more") as seen:
            results = [graphs(kind_of(x), x) for x in inputs]
    assert all(torch.equal(result, x + 1) for result, x in zip(results, inputs, strict=True))
    assert len(recorder.tapes) == 2
    assert len(seen) == 1


def test_a_result_is_the_callers_own():
    with as_on_a_gpu("reference"):
        graphs = Graphs(lambda x: x * 2, name="it", warm=1)
        kept = [graphs("key", torch.full((1,), float(n))) for n in range(4)]
    assert [value.item() for value in kept] == [0.0, 2.0, 4.0, 6.0]
