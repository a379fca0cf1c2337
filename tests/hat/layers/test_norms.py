"""Per-task norms: with an open gate they are the norms of torch, else a gate comes behind; nothing is forgotten."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
import hat_kernels
from hat.layers.norms import NORMS
from hat.units.state import LEARNING, OPEN, PLAIN, Finished, PerSample
from hat_kernels import ACTIVATIONS
from tests.hat.nets import use, wired
from tests.hat.stepping import end
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.tolerance import FACTOR, exact

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning", "ignore:overflow encountered", "ignore:invalid value"),
]

UNITS = 6
CASES = {
    "batch 1d": (nn.BatchNorm1d, (UNITS,), {}, (5, UNITS)),
    "batch 1d of positions": (nn.BatchNorm1d, (UNITS,), {"eps": 1e-3}, (5, UNITS, 7)),
    "batch 2d": (nn.BatchNorm2d, (UNITS,), {"momentum": 0.3}, (5, UNITS, 4, 3)),
    "batch 3d": (nn.BatchNorm3d, (UNITS,), {}, (5, UNITS, 2, 3, 2)),
    "batch on average": (nn.BatchNorm2d, (UNITS,), {"momentum": None}, (5, UNITS, 4, 3)),
    "batch without statistics": (nn.BatchNorm2d, (UNITS,), {"track_running_stats": False}, (5, UNITS, 4, 3)),
    "batch without affine": (nn.BatchNorm2d, (UNITS,), {"affine": False}, (5, UNITS, 4, 3)),
    "layer": (nn.LayerNorm, (UNITS,), {}, (5, 4, UNITS)),
    "layer without bias": (nn.LayerNorm, (UNITS,), {"bias": False, "eps": 1e-3}, (5, UNITS)),
    "layer without affine": (nn.LayerNorm, (UNITS,), {"elementwise_affine": False}, (5, UNITS)),
    "group": (nn.GroupNorm, (2, UNITS), {}, (5, UNITS, 4, 3)),
    "group without affine": (nn.GroupNorm, (3, UNITS), {"affine": False}, (5, UNITS, 4)),
    "rms": (nn.RMSNorm, (UNITS,), {}, (5, 4, UNITS)),
}
SEVERAL = {"layer over images": (nn.LayerNorm, ((UNITS, 4, 3),), {}, (5, UNITS, 4, 3))}
AFFINE = [name for name in CASES if not name.endswith("without affine")]


def pair(name):
    """(the norm of torch with random values, its arguments, inputs)."""
    plain, shape, options, size = (CASES | SEVERAL)[name]
    norm = plain(*shape, **options)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_(1.0, 0.5)
    return norm, torch.randn(size)


def converted(norm, **options):
    return NORMS[type(norm)].from_plain(norm, **options)


def gated(norm, units=None, *, fold="auto", progress=0.01, **options):
    """A gated norm, made of a plain norm, with a new gate."""
    gate = hat.Gate(UNITS)
    gate.state.config = hat.GateConfig(fold=fold)
    gate.state.set_progress(progress)
    if units is not None:
        use(gate, units)
    return converted(norm, gate=gate, **options)


def statistics(module):
    return {name: buffer for name, buffer in module.named_buffers() if name in STATISTICS}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


# ---------------------------------------------------------------- open gates


OPENED = [*((name, False) for name in CASES | SEVERAL), *((name, True) for name in CASES)]


@pytest.mark.parametrize(("name", "has_gate"), OPENED)
def test_with_an_open_gate_the_norm_is_that_of_torch(name, has_gate):
    norm, x = pair(name)
    mine = gated(copy.deepcopy(norm)) if has_gate else converted(copy.deepcopy(norm))
    answer = PLAIN if has_gate else LEARNING
    for training in (True, True, True, False):
        x = torch.randn_like(x).requires_grad_()
        results = []
        for module in (norm, mine):
            with mine.state.answering(answer):
                y = module.train(training)(x)
            affine = [p for key, p in module.named_parameters() if key in ("weight", "bias")]
            results.append([y, *torch.autograd.grad(y.square().sum(), [x, *affine])])
        for theirs, ours in zip(*results, strict=True):
            assert torch.equal(theirs, ours)
        assert len(statistics(norm)) == len(statistics(mine))
        for key, value in statistics(norm).items():
            got = statistics(mine)[key]
            if norm.momentum is None:  # the mean is rounded differently, because the number of batches is not read
                assert torch.allclose(got, value, rtol=1e-5, atol=1e-6)
                value.copy_(got)
            else:
                assert torch.equal(got, value)


@pytest.mark.parametrize("name", CASES)
def test_open_answers_with_the_values_that_every_task_starts_from(name):
    norm, x = pair(name)
    mine = gated(norm)
    mine(x)
    with torch.no_grad():
        for _, values in mine.current():
            values.add_(1)
    with mine.state.answering(OPEN):
        assert torch.equal(mine.train()(x), norm.eval()(x))


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_autocast_as_torchs_norm(name, autocast):
    norm, x = pair(name)
    mine = converted(copy.deepcopy(norm))
    with torch.autocast("cpu", dtype=autocast):
        for x_ in (x, x.to(autocast)):
            theirs, ours = norm(x_), mine(x_)
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


# ---------------------------------------------------------------- gates


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "gelu", "sigmoid"])
@pytest.mark.parametrize("name", CASES)
def test_a_finished_task_is_the_norm_times_its_mask(name, activation):
    """The results are equal bit for bit, because a weight times 1 is the weight."""
    norm, x = pair(name)
    mask = [1, 0, 0, 1, 1, 0]
    mine = gated(norm, mask, activation=activation)
    mine.commit()
    on = torch.tensor(mask, dtype=torch.bool)
    expected = ACTIVATIONS[activation](norm.eval()(x))
    for training in (False, True):
        with mine.state.answering(Finished(0)):
            y = mine.train(training)(x)
        off = y.movedim(mine.unit_dim, -1)[..., ~on]
        assert torch.equal(off, torch.zeros_like(off))
        assert torch.equal(y.movedim(mine.unit_dim, -1)[..., on], expected.movedim(mine.unit_dim, -1)[..., on])


def explicit(mine):
    """y and the gradients of `a * activation(norm(x) w + b)`, computed by hand."""
    plain, config, activation = copy.deepcopy(mine), mine.gate.state.config, ACTIVATIONS[mine.activation]
    plain.gate, plain.activation = None, "identity"

    def function(x, embedding, scale, dy, *affine):
        plain.to(x.dtype)
        leaves = [t.detach().requires_grad_() for t in (x, embedding, *affine)]
        names = [name for name, _ in mine.named_parameters(recurse=False)]
        z = torch.func.functional_call(plain, dict(zip(names, leaves[2:], strict=True)), (leaves[0],))
        a = hat_kernels.gate(leaves[1], scale, s_max=config.s_max, compensation=config.compensation)
        shape = [1] * x.dim()
        shape[mine.unit_dim] = -1
        y = a.view(shape) * activation(z)
        return [y, *torch.autograd.grad(y, leaves, dy)]

    return function


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "gelu", "tanh"])
@pytest.mark.parametrize("fold", ["auto", "never"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_a_gate_behind_the_norm(name, fold, activation):
    norm, x = pair(name)
    mine = gated(norm, fold=fold, activation=activation)
    parameters = list(mine.parameters(recurse=False))
    dy = torch.randn_like(x)
    x.requires_grad_()
    inputs = (x, mine.gate.embedding, mine.gate.state.scale, dy, *parameters)
    function = explicit(mine)
    precise, rounded = exact(function, *inputs), function(*[t.detach() for t in inputs])
    y = mine(x)
    got = [y, *torch.autograd.grad(y, [x, mine.gate.embedding, *parameters], dy)]
    eps = torch.finfo(torch.float32).eps
    for mine_, wide, narrow in zip(got, precise, rounded, strict=True):
        # The sum over a column is in another order, so the error is as large as the largest term allows.
        allowed = FACTOR * (narrow - wide).abs().max() + 16 * eps * wide.abs().max()
        assert (mine_ - wide).abs().max() <= allowed


@pytest.mark.parametrize("compensation", ["published", "exact"])
@pytest.mark.parametrize("name", AFFINE)
def test_a_unit_that_is_off_keeps_the_gradient_of_its_embedding(name, compensation):
    """The gate is far below the floor. Behind a ReLU, a folded gate of exactly 0 would have no gradient."""
    norm, x = pair(name)
    results = []
    for fold in ("never", "auto"):
        mine = gated(copy.deepcopy(norm), fold=fold, activation="relu", progress=1.0)
        mine.gate.state.config = hat.GateConfig(compensation=compensation, fold=fold)
        with torch.no_grad():
            mine.gate.embedding.copy_(torch.linspace(-0.12, 0.01, UNITS))
        y = mine(x)
        dy = torch.linspace(1, 2, y.numel()).view(y.shape)
        results.append(torch.autograd.grad(y, list(mine.parameters()), dy))
    plain, folded = results
    assert plain[-1].all()  # the gradient of the embedding
    for expected, got in zip(plain, folded, strict=True):
        assert torch.allclose(expected, got, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", AFFINE)
def test_the_gate_is_folded_where_it_can_be(name, monkeypatch):
    norm, x = pair(name)
    calls = []
    monkeypatch.setattr(hat_kernels, "folded_weight", lambda *a, **k: calls.append(a) or FOLDED(*a, **k))
    for activation, fold, dtype, times in (
        ("relu", "auto", torch.float32, 1),
        ("identity", "auto", torch.bfloat16, 1),
        ("leaky_relu", "always", torch.float32, 1),
        ("relu", "never", torch.float32, 0),
        ("gelu", "always", torch.float32, 0),
        ("relu", "always", torch.float64, 0),
        ("relu", "always", torch.float16, 0),
    ):
        calls.clear()
        gated(copy.deepcopy(norm).to(dtype), fold=fold, activation=activation)(x.to(dtype))
        assert len(calls) == times, (activation, fold, dtype)


FOLDED = hat_kernels.folded_weight


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["batch 2d", "layer", "layer without bias"])
def test_a_gate_in_the_affine_part_on_the_kernels(name):
    norm, x = pair(name)
    mine = gated(norm, activation="relu").to(DEVICE)
    results = []
    for backend in ("reference", "triton"):
        with hat_kernels.backend(backend), count_launches() as launches:
            y = mine(x.to(DEVICE))
            results.append([y, *torch.autograd.grad(y.square().sum(), list(mine.parameters()))])
    assert launches["folded_weight_forward"] == launches["folded_weight_backward"] == 1
    for expected, got in zip(*results, strict=True):
        assert torch.allclose(expected, got, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("how", ["module", "autocast"])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_an_off_unit_that_overflows_stays_0(activation, how):
    norm, x = nn.BatchNorm1d(UNITS), torch.randn(5, UNITS)
    x[:, 2] = 7e4  # more than float16 holds
    mine = gated(norm, [1, 1, 0, 1, 1, 1], activation=activation)
    mine.commit()
    mine = mine.half() if how == "module" else mine
    with torch.autocast("cpu", dtype=torch.float16, enabled=how == "autocast"), mine.state.answering(Finished(0)):
        y = mine(x.half())
    assert not y[:, 2].any()
    assert y.isfinite().all()


# ---------------------------------------------------------------- tasks


def with_tasks(name, tasks=3):
    """A norm with so many finished tasks, which have random values."""
    norm, x = pair(name)
    mine = gated(norm, activation="leaky_relu")
    masks = torch.tensor([[float((unit + task) % 3 > 0) for unit in range(UNITS)] for task in range(tasks)])
    mine.gate.load_state_dict({**mine.gate.state_dict(), "masks": masks})
    for _ in range(tasks):
        mine.begin_task()
        with torch.no_grad():
            for _, values in mine.current():
                values.add_(torch.rand_like(values) if values.is_floating_point() else 1)
        mine.commit()
    return mine, x


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_task_a_sample(name, training):
    mine, x = with_tasks(name)
    mine.train(training)
    tasks = torch.arange(len(x)) % 3
    with mine.state.answering(PerSample(tasks)):
        mixed = mine(x)
    for task in range(3):
        with mine.state.answering(Finished(task)):
            alone = mine(x)
        assert torch.allclose(mixed[tasks == task], alone[tasks == task], rtol=1e-5, atol=1e-6)
        assert torch.equal(mixed[tasks == task] == 0, alone[tasks == task] == 0)


def test_one_task_per_sample_over_images():
    norm, x = pair("layer over images")
    mine = converted(norm)
    for _ in range(2):
        with torch.no_grad():
            mine.weight.normal_()
        mine.commit()
    tasks = torch.tensor([0, 1, 1, 0, 1])
    with mine.state.answering(PerSample(tasks)):
        mixed = mine(x)
    for task in range(2):
        with mine.state.answering(Finished(task)):
            alone = mine(x)
        assert torch.allclose(mixed[tasks == task], alone[tasks == task], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("batch")])
def test_only_the_current_task_averages(name):
    mine, x = with_tasks(name)
    mine.train()
    before = {key: value.clone() for key, value in mine.named_buffers()}
    for answer in (Finished(1), PerSample(torch.tensor([0, 1, 2, 0, 1])), OPEN):
        with mine.state.answering(answer):
            mine(x)
    for key, value in mine.named_buffers():
        assert torch.equal(value, before[key])
    mine.eval()(x)
    for key, value in mine.named_buffers():
        assert torch.equal(value, before[key])
    mine.train()(x)
    moved = {key for key, value in mine.named_buffers() if not torch.equal(value, before[key])}
    assert moved == set(statistics(mine))


# ---------------------------------------------------------------- networks


class Folded(nn.Module):
    """A residual stream with a convolution that has no gate, because its units are gated behind the norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.gate, inner = hat.Gate(6, unit_dim=1), hat.Gate(6, unit_dim=1)
        self.first = hat.HATBatchNorm2d(6, gate=self.gate, activation="relu")
        self.second = hat.HATBatchNorm2d(6, gate=inner, activation="relu")
        self.gate.attach(self.stem, "weight", 0)
        self.gate.attach(self.block, "weight", 1)
        inner.attach(self.block, "weight", 0)
        inner.attach(self.block, "bias", 0)
        self.out = hat.HATLinear(6, 5, inputs=inner)

    def forward(self, x):
        x = self.first(self.stem(x))
        return self.out(self.second(self.block(x)).mean((2, 3)))


def conv_norm(*norms):
    return wired(
        hat.HATConv2d(1, 6, 3, activation="identity"),
        norms[0],
        nn.ReLU(),
        nn.MaxPool2d(2),
        hat.HATConv2d(6, 6, 2),
        norms[1],
        nn.Flatten(),
        hat.HATLinear(24, 7),
    )


def linear_norm(*norms):
    return wired(hat.HATLinear(8, 9), norms[0], hat.HATLinear(9, 6, activation="gelu"), norms[1])


NETWORKS = {
    "conv, batch": (lambda: conv_norm(hat.HATBatchNorm2d(6), hat.HATBatchNorm2d(6, activation="relu")), (1, 8, 8)),
    "conv, group": (lambda: conv_norm(hat.HATGroupNorm(2, 6), hat.HATGroupNorm(3, 6, affine=False)), (1, 8, 8)),
    "folded": (Folded, (1, 6, 6)),
    "linear, layer": (lambda: linear_norm(hat.HATLayerNorm(9), hat.HATLayerNorm(6, bias=False)), (8,)),
    "linear, rms": (lambda: linear_norm(hat.HATRMSNorm(9), hat.HATRMSNorm(6, activation="silu")), (8,)),
    "linear, batch": (lambda: linear_norm(hat.HATBatchNorm1d(9), hat.HATBatchNorm1d(6, momentum=None)), (8,)),
}
OPTIMIZERS = {
    "sgd": lambda p, model: hat.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.05, max_norm=1.0, model=model),
    "in backward": lambda p, model: hat.optim.SGD(p, lr=0.2, weight_decay=0.05, in_backward=True, model=model),
    "adamw": lambda p, model: hat.optim.AdamW(p, lr=0.05, weight_decay=0.1, model=model),
    "guarded": lambda p, model: hat.guard(torch.optim.Adam(p, lr=0.05, weight_decay=0.1), model),
}


def make(name):
    torch.manual_seed(0)
    body, shape = NETWORKS[name]
    return hat.HATModel(body()), shape


def answers(model, remembered):
    """The answers of all finished tasks, in the present mode of the model."""
    with torch.no_grad():
        return {task: model(x, task=task) for task, x in remembered.items()}


def step(model, optimizer, shape, progress, autocast=None):
    model.anneal(progress)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        loss = F.cross_entropy(model(torch.randn(6, *shape)).float(), torch.arange(6) % 3)
    optimizer.zero_grad()
    (loss + 0.75 * model.penalty()).backward()
    optimizer.step()


def learn(model, shape, optimizer, tasks=3, autocast=None):
    """Every finished task answers the same bits after each step of later tasks, in training mode too."""
    probes, inputs, first = hat.Probes(), {}, {}
    for task in range(tasks):
        model.begin_task(3)
        optimizer_of_task = OPTIMIZERS[optimizer](model.task_parameters(), model)
        for number in range(3):
            step(model, optimizer_of_task, shape, number / 2, autocast)
            for mode in (True, False):
                for old, y in answers(model.train(mode), inputs).items():
                    assert torch.equal(y, first[old]), f"task {old} drifted"
            model.train()
        end(model)
        inputs[task] = torch.randn(6, *shape)
        first |= answers(model, {task: inputs[task]})
        probes.add(model, task, inputs[task])
        result = hat.verify(model, probes)
        assert result.exact, str(result)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_forgotten(name, optimizer):
    model, shape = make(name)
    learn(model, shape, optimizer)
    norms = [module for module in model.body.modules() if isinstance(module, hat.PerTask)]
    assert len(norms) == 2
    for norm in norms:
        for tensor_name, stack in norm.stacks():
            assert len(stack) == 3
            assert tensor_name == "num_batches_tracked" or not torch.equal(stack[0], stack[1])  # every task has its own


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_forgotten_under_autocast(name, autocast):
    model, shape = make(name)
    learn(model, shape, "sgd", autocast=autocast)


def test_a_module_of_bfloat16():
    body, shape = NETWORKS["conv, batch"]
    model = hat.HATModel(body().bfloat16())
    model.begin_task(3)
    y = model(torch.randn(4, *shape).bfloat16())
    y.float().square().sum().backward()
    assert {p.grad.dtype for p in model.body[1].parameters(recurse=False)} == {torch.bfloat16}
    end(model)
    assert model(torch.randn(4, *shape).bfloat16(), task=0).isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_loads_into_a_fresh_model(name):
    model, shape = make(name)
    learn(model, shape, "adamw", tasks=2)
    fresh, _ = make(name)
    fresh.load_state_dict(model.state_dict())
    fresh.eval()
    x = torch.randn(6, *shape)
    for task in range(2):
        assert torch.equal(fresh(x, task=task), model(x, task=task))
        assert torch.equal(copy.deepcopy(model)(x, task=task), model(x, task=task))


@pytest.mark.parametrize("optimizer", ["sgd", "guarded"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_step_in_one_call(name, optimizer):
    results = []
    for whole in (True, False):
        model, shape = make(name)
        model.begin_task(3)
        optimizer_of_task = OPTIMIZERS[optimizer](model.task_parameters(), model)
        call = hat.TrainStep(model, optimizer_of_task) if whole else None
        torch.manual_seed(1)
        for number in range(3):
            if call is None:
                step(model, optimizer_of_task, shape, number / 2)
            else:
                call(torch.randn(6, *shape), torch.arange(6) % 3, progress=number / 2)
        results.append(model.state_dict())
    for (key, expected), got in zip(results[0].items(), results[1].values(), strict=True):
        assert torch.equal(expected, got), key


@pytest.mark.parametrize("name", ["conv, batch", "linear, layer"])
def test_the_norm_compiles_to_one_graph(name):
    """The other norms compile in the same way, but slowly."""
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, shape = make(name)
        model.begin_task(3)
        model.anneal(0.1)
        call = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        x = torch.linspace(-2, 2, 4 * torch.Size(shape).numel()).view(4, *shape)
        y = call(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in model.body.parameters()), *statistics(model.body).values()])
    for expected, got in zip(*results, strict=True):
        assert torch.allclose(expected, got, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- making them


@pytest.mark.parametrize("name", CASES | SEVERAL)
def test_from_plain(name):
    norm, _ = pair(name)
    norm.eval()
    for key, parameter in norm.named_parameters():
        parameter.requires_grad_(key == "weight")
    mine = converted(norm)
    assert not mine.training
    plain, shape, options, _ = (CASES | SEVERAL)[name]
    made = NORMS[plain](*shape, **options)
    assert made.state_dict().keys() == mine.state_dict().keys()
    for option in mine.options:
        assert getattr(mine, option) == getattr(made, option) == getattr(norm, option)
    for key, value in norm.state_dict().items():
        copied = getattr(mine, key)
        assert torch.equal(copied, value)
        assert getattr(mine, f"{key}_initial").data_ptr() == value.data_ptr() != copied.data_ptr()
        assert copied.requires_grad == (key == "weight")


class Other(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.SyncBatchNorm(4), "expected BatchNorm2d, got SyncBatchNorm, which shares its statistics"),
        (Other(4), "expected BatchNorm2d, got Other"),
        (nn.BatchNorm1d(4), "expected BatchNorm2d, got BatchNorm1d"),
        (nn.InstanceNorm2d(4, track_running_stats=True), "expected BatchNorm2d, got InstanceNorm2d"),
    ],
)
def test_another_class_is_no_batch_norm(norm, message):
    with pytest.raises(TypeError, match=f"norm: {message}"):
        hat.HATBatchNorm2d.from_plain(norm)


def test_gates_that_do_not_fit():
    with pytest.raises(ValueError, match="gate: expected one of 4 units, got 3 units"):
        hat.HATBatchNorm2d(4, gate=hat.Gate(3))
    with pytest.raises(ValueError, match="gate: expected none for a norm over several dimensions, got 4 units"):
        hat.HATLayerNorm((4, 2, 2), gate=hat.Gate(4))
    with pytest.raises(ValueError, match="activation: expected one of"):
        hat.HATGroupNorm(2, 4, activation="softmax")
    with pytest.raises(ValueError, match=r"x: expected 4 dimensions \(B, 4, \.\.\.\), got \(3, 4\)"):
        hat.HATBatchNorm2d(4)(torch.zeros(3, 4))


def test_the_error_about_a_plain_batch_norm_names_the_gated_norm():
    with pytest.raises(ValueError, match=r"body\.1: expected no BatchNorm2d: .*; use hat\.HATBatchNorm2d and the like"):
        hat.HATModel(wired(hat.HATConv2d(1, 4, 3), nn.BatchNorm2d(4)))


def test_a_gate_of_another_kind():
    """An object with `units`, `state` and `form` serves as a gate. Here it is one gate for both halves of the units."""

    class Twice:
        def __init__(self, gate):
            self.gate, self.units, self.state = gate, 2 * gate.units, gate.state

        def form(self):
            return hat_kernels.GateForm(mask=self.gate.form().mask.repeat(2))

    gate = hat.Gate(3).eval()
    norm = hat.HATLayerNorm(6, gate=Twice(gate))
    with torch.no_grad():
        gate.embedding.copy_(torch.tensor([1.0, -1.0, 1.0]))
    y = norm(torch.randn(4, 6))
    assert torch.equal((y == 0).all(0), torch.tensor([False, True, False] * 2))
