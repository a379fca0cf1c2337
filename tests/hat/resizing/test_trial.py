"""Cases that one example and one mask cannot show: other batches, constant inputs, units that no task uses yet."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.units.state import Finished
from tests.hat.conversion.checks import convert, draw_units, features, poison
from tests.hat.conversion.zoo import NETWORKS, Net

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def shuffled(self, x):
    """A shuffle of channels: channels of two groups in turns."""
    hidden = self.one(x)
    return self.last(F.relu(hidden.view(len(x), 2, 4).transpose(1, 2).reshape(len(x), 8)))


def in_steps(self, x):
    return self.last(F.relu(self.one(x)[:, ::2]))


def rolled(self, x):
    return self.last(F.relu(self.one(x)).roll(2, -1))


def attending(self, x):
    hidden = self.one(x)
    return self.last((hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]).mean(1))


def net(forward, columns=8, **parts):
    torch.manual_seed(0)
    return Net(forward, one=nn.Linear(5, 8), last=nn.Linear(columns, 4), **parts).double()


def learn(model, seed):
    model.begin_task(2)
    draw_units(model, seed)
    model.end_task()


def inputs(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def exports_agree(model, x):
    for task in model.remembered:
        with torch.no_grad():
            torch.testing.assert_close(hat.export(model, task=task)(x), model.eval()(x, task=task), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("forward", "columns"), [(shuffled, 8), (in_steps, 4)])
def test_new_units_lie_at_their_locked_columns(forward, columns):
    """No unit joins where a shuffle would move new units to old columns: a later task could change these columns."""
    x = inputs(3, 5)
    model = convert(net(forward, columns), x, head=None)
    learn(model, 0)
    joined = hat.grow(model, 3)  # ends: two layouts of the same units do not outgrow each other
    assert joined == {"gates.last": 3}
    model.begin_task(2)
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(1)
    model.end_task()
    before = [features(model, x, Finished(task)) for task in range(2)]
    poison(model, 1)
    assert all(torch.equal(features(model, x, Finished(task)), then) for task, then in enumerate(before))


def test_a_table_read_as_far_as_the_inputs_say_stays():
    module, example = NETWORKS["projected_words"]()
    model = convert(module, example, head=None)
    learn(model, 0)
    assert hat.grow(model, 3) == {"gates.table": 3, "gates.last": 3}


@pytest.mark.parametrize("forward", [shuffled, rolled])
def test_an_example_of_zeros_hides_nothing(forward):
    model = convert(net(forward), torch.zeros(3, 5, dtype=torch.float64), head=None)
    nn.init.zeros_(model.body.network.one.bias)
    for seed in range(3):
        learn(model, seed)
    exports_agree(model, inputs(4, 5))


def test_any_batch_goes_through_heads_that_are_fewer_or_more():
    """All heads of all samples lie along one dimension, so its length depends on the batch."""
    attention = nn.MultiheadAttention(8, 4, batch_first=True)
    model = convert(net(attending, attention=attention), inputs(3, 6, 5), head=None, per_head=True)
    learn(model, 0)
    batches = [inputs(size, 6, 5) for size in (1, 5)]
    for x in batches:
        exports_agree(model, x)
    before = [features(model, x, Finished(0)) for x in batches]
    assert len(hat.grow(model, 1)) == len(hat.grow(model, 1)) == len(model.gates)
    for x, then in zip(batches, before, strict=True):
        now = features(model, x, Finished(0))
        kept = model.body.gates["last"].origin < then.shape[-1]
        torch.testing.assert_close(now[..., kept], then, rtol=0, atol=1e-10)
        exports_agree(model, x)
