"""A traced graph computes the same as the module; networks that a graph cannot express are refused."""

from __future__ import annotations

import copy
import functools
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations

from hat.tracing.errors import ConversionError
from hat.tracing.trace import trace

pytestmark = pytest.mark.usefixtures("one_thread")


class Function(nn.Module):
    """A module with a forward pass given as a function of itself and its input, and with modules given by name."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def graph(forward, *example, **modules):
    return trace(Function(forward, **modules), example or (torch.randn(2, 4),)).graph_module


def ops(module):
    return [node.op for node in module.graph.nodes]


def targets(module, op):
    return [node.target for node in module.graph.nodes if node.op == op]


# ---------------------------------------------------------------- sizes


class Attention(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.size = heads, 5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        B, N, C = x.shape
        assert self.size == N, f"expected {self.size} tokens, got {N}"
        torch._assert(self.size == N, "tokens")
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (C // self.heads) ** -0.5).softmax(-1)
        position = torch.arange(N, device=x.device) / N
        return self.out((weights @ v).transpose(1, 2).reshape(B, N, C)) + position[:, None]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_sizes_follow_the_batch(batch):
    module = Attention()
    traced = trace(module, (torch.randn(2, 5, 8),)).graph_module
    x = torch.randn(batch, 5, 8)
    assert torch.equal(traced(x), module(x))


def test_python_decides_once():
    """Branches on sizes, loops over sizes and unpacking are fixed by the example."""

    def forward(self, x):
        for _ in range(x.shape[1]):
            x = x + 1
        if x.size(1) == 4 and x.dim() == 2 and len(x.shape) == 2:
            x = x * 2
        a, b, c, d = x.unbind(1)
        first, *rest = x.shape
        return torch.stack([a, b, c, d], 1).view(first, *rest)

    traced = graph(forward)
    x = torch.randn(5, 4)
    assert torch.equal(traced(x), (x + 4) * 2)


def test_arithmetic_of_sizes():
    def forward(self, x):
        batch, width = x.shape
        half = -(-width // 2)
        import math

        root = math.ceil(x.numel() / batch)
        x = x.view(x.size()[:-1] + x.new_zeros(half, 2).shape).flatten(1)
        return x.reshape(2 * batch, half).reshape(batch, root).expand(batch, int(root)) / (batch * 1.5 % 2 + 1)

    traced = graph(forward)
    x = torch.randn(6, 4)
    assert torch.equal(traced(x), x / (6 * 1.5 % 2 + 1))


def test_a_number_that_python_makes_of_a_batch_size_follows_it():
    """Code often joins windows to an image with such a number."""

    def forward(self, x):
        windows = x.reshape(-1, 4, 2)
        batch = int(windows.shape[0] / (x.shape[1] / 4))
        repeated = torch.cat([windows.view(batch, -1, 2), x.new_zeros(int(batch), 1, 2)], 1)
        return repeated[:, : int(x.shape[1])], torch.arange(2 * int(x.shape[0]) - 1)

    traced = graph(forward, torch.randn(2, 8, 2))
    for batch in (1, 5, 6):
        x = torch.randn(batch, 8, 2)
        same, counted = traced(x)
        assert torch.equal(same, x)
        assert len(counted) == 2 * batch - 1


def test_the_length_of_a_tensor_follows_the_batch_size():
    traced = graph(
        lambda self, x: torch.cat([self.token.expand(len(x), -1), x], 1),
        torch.randn(3, 4),
        token=nn.Parameter(torch.ones(1, 1)),
    )
    assert traced(torch.randn(7, 4)).shape == (7, 5)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: torch.arange(int(x.shape[0] ** 2)),
        lambda self, x: x.reshape(-1) if int(x.shape[0]) == 2 else x,
        lambda self, x: torch.stack([x[index] * 2 for index in range(x.shape[0])]) + 0 * int(x.shape[0]),
    ],
)
def test_a_batch_size_that_python_decides_by_is_refused_by_place(forward):
    with pytest.raises(ConversionError, match=r"another size the graph .*the network \(Function, test_trace.py"):
        graph(forward)


def test_values_are_those_of_the_nodes():
    traced = trace(Attention(), (torch.randn(2, 5, 8),))
    for node in traced.graph_module.graph.nodes:
        value = traced.values[node]
        assert not isinstance(value, torch.Tensor) or node.op == "get_attr" or not value.requires_grad
    (shape,) = {traced.values[n] for n in traced.values if n.target is getattr and n.args[1] == "shape"}
    assert shape == (2, 5, 8)
    (place,) = {node.meta["place"] for node in traced.values if node.target == "qkv"}
    assert re.fullmatch(r"qkv \(Linear, test_trace.py:\d+\)", place)


def test_reading_a_constant_gives_a_number():
    module = Function(lambda self, x: x.repeat(1, self.table.max().item()) if (self.table > 1).any() else x)
    module.register_buffer("table", torch.tensor([1, 3]))
    assert trace(module, (torch.randn(2, 4),)).graph_module(torch.randn(5, 4)).shape == (5, 12)


def test_reading_values_only_while_not_compiling():
    def forward(self, x, mask):
        if not torch.compiler.is_compiling() and mask.all():
            return x
        return x.masked_fill(~mask, 0)

    x, mask = torch.randn(2, 4), torch.rand(2, 4) > 0.5
    traced = graph(forward, x, mask)
    assert torch.equal(traced(x, mask), x * mask)
    assert not torch.compiler.is_compiling()


@functools.lru_cache
def twice(size):
    return size * 2


def test_sizes_of_another_graph_are_numbers():
    """A module may cache such sizes between two recordings."""
    for _ in range(2):
        traced = graph(lambda self, x: x.reshape(-1, 2, twice(x.shape[1]) // 4))
        assert traced(torch.zeros(3, 4)).shape == (3, 2, 2)


def test_a_tensor_that_is_made_follows_the_device():
    def forward(self, x):
        return x + torch.zeros(4, device=x.device) + torch.from_numpy(self.table)

    module = Function(forward)
    module.table = np.arange(4.0, dtype=np.float32)
    traced = trace(module, (torch.randn(2, 4),)).graph_module
    (made,) = [node for node in traced.graph.nodes if node.target is torch.zeros]
    assert made.kwargs["device"].args[1] == "device"
    assert targets(traced, "get_attr")


# ---------------------------------------------------------------- modules


def test_layers_are_those_of_the_network():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Flatten(), nn.Linear(144, 2)
    )
    traced = trace(module, (torch.randn(2, 3, 8, 8),)).graph_module
    assert targets(traced, "call_module") == ["0", "1.0", "1.1", "2", "3"]
    for name in targets(traced, "call_module"):
        assert traced.get_submodule(name) is module.get_submodule(name)
    assert dict(traced.named_parameters()).keys() == dict(module.named_parameters()).keys()


def test_a_layer_used_twice_is_one():
    shared = nn.Linear(4, 4)
    traced = graph(lambda self, x: self.b(self.a(x)) + x, a=shared, b=shared)
    assert targets(traced, "call_module") == ["a", "a"]


class Shifted(nn.Conv2d):
    """Applies its weight unchanged, to an input that is changed first."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


def test_a_derived_layer_is_looked_into_unless_it_computes_its_weight():
    x = torch.randn(2, 3, 6, 6)
    shifted = graph(lambda self, x: self.conv(x), x, conv=Shifted(3, 4, 3))
    assert targets(shifted, "get_attr") == ["conv.weight", "conv.bias"]
    standardized = graph(lambda self, x: self.conv(x), x, conv=Standardized(3, 4, 3))
    assert targets(standardized, "call_module") == ["conv"]


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation behind it, as many libraries have."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(x)


def test_a_derived_batch_norm_becomes_a_batch_norm():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), NormAct(4))
    traced = trace(module, (torch.randn(2, 3, 5, 5),)).graph_module
    norm = traced.get_submodule("1.batch_norm")
    assert type(norm) is nn.BatchNorm2d
    assert norm.weight is module[1].weight
    assert targets(traced, "call_module") == ["0", "1.batch_norm", "1.act"]
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(traced.train()(x), copy.deepcopy(module).train()(x))
    assert module[1].running_mean.any()  # of the module itself


def test_parametrized_weights_are_in_the_graph():
    linear = parametrizations.weight_norm(nn.Linear(4, 3))
    traced = graph(lambda self, x: self.linear(x), linear=linear)
    assert set(targets(traced, "get_attr")) >= {"linear.parametrizations.weight.original0", "linear.bias"}
    assert not targets(traced, "call_module")


def test_tensors_that_are_no_buffers_are_constants():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.arange(4.0)
            self.register_buffer("table", torch.randn(4), persistent=False)
            self.register_buffer("kept", torch.randn(4))

        def forward(self, x):
            return x * self.scale + self.table - self.kept

    traced = trace(Scaled(), (torch.randn(2, 4),)).graph_module
    assert len(targets(traced, "get_attr")) == 3
    assert "table" not in traced.state_dict()
    assert "kept" in traced.state_dict()


def test_random_depth_without_parameters_is_one_node():
    class DropPath(nn.Module):
        def forward(self, x):
            return x * torch.bernoulli(torch.full((len(x), 1), 0.5)) if self.training else x

    traced = graph(lambda self, x: x + self.drop(x), drop=DropPath())
    assert targets(traced, "call_module") == ["drop"]


# ---------------------------------------------------------------- attention of torch


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kdim", [None, 6])
def test_multi_head_attention(batch_first, need_weights, masked, kdim):
    attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=batch_first, kdim=kdim, vdim=kdim)

    def forward(self, x, y, mask, padding):
        options = {"attn_mask": mask, "key_padding_mask": padding} if masked else {}
        out, weights = self.attention(x, y, y, need_weights=need_weights, **options)
        return (out, weights) if need_weights else out

    mask, padding = torch.randn(4, 3), torch.zeros(4 if not batch_first else 2, 3)
    padding = torch.tensor([[False, True, False]]).expand(len(padding), 3)[:2].contiguous()
    x, y = torch.randn(2, 4, 8), torch.randn(2, 3, kdim or 8)
    if not batch_first:
        x, y = x.transpose(0, 1), y.transpose(0, 1)
    module = Function(forward, attention=attention)
    traced = trace(module, (x, y, mask, padding)).graph_module
    assert "attention.in_proj_bias" in targets(traced, "get_attr")
    kinds = {type(traced.get_submodule(name)).__name__ for name in targets(traced, "call_module")}
    assert kinds == ({"Dropout"} if need_weights else {"DroppedAttention"})
    dropped = traced.train()
    torch.manual_seed(0)
    got = dropped(x, y, mask, padding)
    torch.manual_seed(0)
    expected = module.train()(x, y, mask, padding)
    for one, other in zip(*((each if need_weights else (each,)) for each in (got, expected)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_transformer_encoder(norm_first, batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 4, 8)
    traced = trace(module, (x,)).graph_module
    torch.manual_seed(0)
    got = traced.train()(x)
    torch.manual_seed(0)
    assert torch.equal(got, module.train()(x))


# ---------------------------------------------------------------- in place


def test_changes_in_place_become_new_tensors():
    def forward(self, x):
        y = x + 1
        z = y  # the same object
        y += 2
        y.mul_(z).relu_()
        F.relu(y, inplace=True)
        F.leaky_relu_(y, 0.1)
        y.unsqueeze_(0)
        assert y.shape[0] == 1
        mask = torch.zeros_like(z, dtype=torch.int32)
        mask += 1
        mask.masked_fill_(z > 1, 3).clamp_(max=2)
        self.act(z)
        return z.squeeze(0) * mask.squeeze(0)

    traced = graph(forward, act=nn.ReLU(inplace=True))
    assert not traced.act.inplace
    names = [str(target) for op in ("call_method", "call_function") for target in targets(traced, op)]
    assert not [name for name in names if name.endswith("_") or name.startswith("__i")]


def test_the_input_is_kept():
    x = torch.randn(2, 4)
    before = x.clone()
    graph(lambda self, x: x.add_(1), x)
    assert torch.equal(x, before)


def test_a_view_of_a_changed_tensor_is_refused():
    def forward(self, x):
        y = x + 1
        view = y[:, :2]
        y += 1
        return view

    with pytest.raises(ConversionError, match=r"the network \(Function, test_trace.py:\d+\): reads a tensor that was"):
        graph(forward)


def test_a_view_of_another_part_is_not_refused():
    def forward(self, x):
        one, other = (x + 1).chunk(2, 1)
        one += 1
        return one * other

    assert graph(forward)(torch.zeros(1, 4)).tolist() == [[2, 2]]


def forward_with(change):
    def forward(self, x):
        y = x + self.table
        change(self, x, y)
        return y

    return forward


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda self, x, y: y.__setitem__((slice(None), 0), 1), "assigns to a part of a tensor"),
        (lambda self, x, y: self.table.add_(1), "changes table in place"),
        (lambda self, x, y: self.table.view(-1).add_(1), "changes table in place"),
        (lambda self, x, y: y.normal_(), "normal_ changes a tensor in place"),
        (lambda self, x, y: torch.add(x, x, out=y), "add writes to `out`"),
        (lambda self, x, y: setattr(y, "data", x), "sets data of a tensor"),
        (lambda self, x, y: bool(x.sum() > 0), "__bool__ makes Python depend on values"),
        (lambda self, x, y: self.weight.max().item(), "item makes Python depend on values"),
        (lambda self, x, y: x.tolist(), "tolist makes Python depend on values"),
        (lambda self, x, y: torch.nn.functional.embedding_bag(x.long(), object()), "the network"),
        (lambda self, x, y: y.view(3, 3), "RuntimeError: shape"),
    ],
)
def test_what_is_refused_and_where(change, reason):
    table = torch.arange(4.0)
    module = Function(forward_with(change), weight=nn.Parameter(torch.ones(2)))
    module.register_buffer("table", table)
    with pytest.raises(ConversionError, match=r"the network \(Function, test_trace.py:\d+\): .*") as caught:
        trace(module, (torch.randn(2, 4),))
    assert reason in str(caught.value)
    assert torch.equal(module.table, torch.arange(4.0))


def test_a_mask_is_filled_part_by_part():
    """Networks number shifted windows this way; the batch and the size may differ from the example."""

    def forward(self, x):
        batch, width = x.shape
        mask = x.new_zeros(batch, width)
        for count, part in enumerate((slice(0, -2), slice(-2, None))):
            mask[:, part] = count + 1
        mask[0] = mask.new_full((width,), 5)
        return x * mask

    assert graph(forward)(torch.ones(3, 5)).tolist() == [[5] * 5, [1, 1, 1, 2, 2], [1, 1, 1, 2, 2]]


def test_a_hidden_function_is_named_by_the_constant_that_it_made():
    hidden = torch.jit.script(doubled)
    with pytest.raises(ConversionError, match=r"the graph fails .* became a constant .*: the network \(Function"):
        graph(lambda self, x: x + hidden(x))


def doubled(x):
    return x * 2


def test_vmap_is_refused():
    with pytest.raises(ConversionError, match=r"the network \(Function, .*\): torch.func and torch.vmap"):
        graph(lambda self, x: torch.vmap(lambda row: row * 2)(x))


def test_the_place_is_that_of_the_module_inside():
    inner = Function(lambda self, x: x.item())
    with pytest.raises(ConversionError, match=r"^0\.block \(Function, test_trace.py:\d+\): item"):
        trace(nn.Sequential(Function(lambda self, x: self.block(x), block=inner)), (torch.randn(2, 4),))


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_are_refused(hook):
    module = nn.Sequential(nn.Linear(4, 4))
    getattr(module[0], hook)(lambda *args: None)
    with pytest.raises(ConversionError, match=r"^0 \(Linear\): has a hook"):
        trace(module, (torch.randn(2, 4),))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda: nn.Sequential(nn.Embedding(4, 2, max_norm=1.0)), r"0 \(Embedding\): changes its weight"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), r"0 \(LazyLinear\): has no parameters yet"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 4))), "a scripted module"),
        (lambda: nn.Bilinear(4, 4, 1), "example_input: expected the arguments of Bilinear.forward"),
    ],
)
def test_modules_that_are_refused(module, reason):
    with pytest.raises(ConversionError, match=reason):
        trace(module(), (torch.randn(2, 4),))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("drop", "kind"),
    [
        (lambda self, x: F.dropout(x, 0.3, self.training), nn.Dropout),
        (lambda self, x: F.dropout(x, 0.3, self.training, inplace=True), nn.Dropout),
        (lambda self, x: torch.dropout(x, 0.3, self.training), nn.Dropout),
        (lambda self, x: F.dropout1d(x, 0.3, self.training), nn.Dropout1d),
        (lambda self, x: F.alpha_dropout(x, 0.3, self.training), nn.AlphaDropout),
        (lambda self, x: F.dropout(x, 0.3) if self.training else x, nn.Dropout),
    ],
)
def test_functional_dropout_becomes_a_module(drop, kind):
    traced = graph(lambda self, x: drop(self, x + 1))
    (name,) = targets(traced, "call_module")
    module = traced.get_submodule(name)
    assert type(module) is kind
    assert module.p == 0.3
    x = torch.ones(1, 1000)
    assert torch.equal(traced.eval()(x), x + 1)
    assert not torch.equal(traced.train()(x), x + 1) or kind is nn.Dropout1d


def test_dropout_that_never_stops_stays_a_function():
    traced = graph(lambda self, x: F.dropout(x, 0.3))
    assert not targets(traced, "call_module")


def test_dropout_that_never_drops_leaves_no_node():
    traced = graph(lambda self, x: F.dropout(x, 0.3, False) + 1)
    assert ops(traced) == ["placeholder", "call_function", "output"]


def test_attention_dropout_becomes_a_module():
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.2 if self.training else 0.0)

    traced = graph(forward, torch.randn(2, 5, 4))
    assert traced.functional_attention.p == 0.2


def test_a_training_branch_that_no_graph_can_express_is_left_out():
    def forward(self, x):
        if self.training:
            return x, x.sum().item()
        return x + 1

    assert graph(forward)(torch.zeros(1, 4)).tolist() == [[1, 1, 1, 1]]


def test_a_part_without_gradients_has_none():
    def forward(self, x):
        with torch.no_grad():
            frozen = self.a(x) + 1
        return self.b(frozen)

    module = graph(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    module(torch.randn(2, 4)).sum().backward()
    assert module.a.weight.grad is None
    assert module.b.weight.grad is not None


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_is_what_it_checkpoints(use_reentrant):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(lambda y: self.a(y) * 2, x, use_reentrant=use_reentrant)

    assert targets(graph(forward, a=nn.Linear(4, 4)), "call_module") == ["a"]


def test_a_function_with_its_own_gradient_stays_whole():
    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, grad):
            return grad

    module = graph(lambda self, x: Straight.apply(self.a(x)), a=nn.Linear(4, 4))
    module(torch.randn(2, 4)).sum().backward()
    assert module.a.bias.grad.any()


# ---------------------------------------------------------------- the module is left alone


class Counting(nn.Module):
    """A module whose forward pass changes all kinds of state."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.register_buffer("table", torch.zeros(3))
        self.cache, self.calls = {}, 0

    def forward(self, x):
        self.calls += 1
        self.cache[x.shape] = x
        self.last = x
        random.random()
        torch.rand(1)
        return self.inner(x)


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_as_it_was(training):
    module = Counting().train(training)
    module.inner[1].eval()
    flags = [each.training for each in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    objects = [id(each) for each in [*module.parameters(), *module.buffers()]]
    example = (torch.randn(2, 4),)
    drawn = random.getstate(), torch.get_rng_state()
    trace(module, example)
    assert [each.training for each in module.modules()] == flags
    assert [id(each) for each in [*module.parameters(), *module.buffers()]] == objects
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert (module.cache, module.calls, hasattr(module, "last")) == ({}, 0, False)
    assert random.getstate() == drawn[0]
    assert torch.equal(torch.get_rng_state(), drawn[1])
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl


def test_the_graph_can_be_copied():
    traced = trace(Attention(), (torch.randn(2, 5, 8),)).graph_module
    x = torch.randn(3, 5, 8)
    assert torch.equal(copy.deepcopy(traced)(x), traced(x))


def test_outputs_are_containers_of_tensors():
    traced = graph(lambda self, x: {"a": x + 1, "b": [x, (x * 2, None)]})
    out = traced(torch.ones(1, 1))
    assert out == {"a": torch.tensor([[2.0]]), "b": [torch.ones(1, 1), (torch.tensor([[2.0]]), None)]}


def test_inputs_may_be_containers():
    module = Function(lambda self, pair, options: pair[0] + options["scale"] * pair[1])
    inputs = ([torch.randn(2, 3), torch.randn(2, 3)], {"scale": torch.tensor(2.0)})
    assert torch.equal(trace(module, inputs).graph_module(*inputs), module(*inputs))
