"""The head of a network is removed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.tracing.errors import ConversionError
from tests.hat.conversion.zoo import Net

X = torch.randn(4, 5)


def net(**more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), *more.get("behind", ()))


def test_the_last_layer_is_the_head():
    model = hat.convert(net(), X)
    assert (model.body.head, model.features, list(model.gates)) == ("2", 6, ["gates.0"])


@pytest.mark.parametrize("behind", [nn.Dropout(0.1), nn.Identity(), nn.Flatten()])
def test_dropout_and_reshapes_may_stand_behind_the_head(behind):
    assert hat.convert(net(behind=(behind,)), X).body.head == "2"


def test_no_head():
    model = hat.convert(net(), X, head=None)
    assert (model.body.head, model.features) == (None, 7)


def test_a_head_by_name():
    module = Net(lambda self, x: self.head(F.relu(self.one(x))), one=nn.Linear(5, 5), head=nn.Linear(5, 5))
    model = hat.convert(module, X, head="head")
    assert (model.body.head, model.features, list(model.gates)) == ("head", 5, ["gates.one"])


@pytest.mark.parametrize("width", [5, 6])
def test_a_head_that_is_not_last_is_refused(width):
    """Also if the layers behind it would take its inputs as well."""
    module = Net(lambda self, x: self.head(F.relu(self.one(x))), one=nn.Linear(5, width), head=nn.Linear(width, 3))
    with pytest.raises(ConversionError, match=r"head: expected .* got 'one'; it answers with head$"):
        hat.convert(module, X, head="one")


def test_a_head_in_front_of_a_softmax_is_refused():
    """The softmax would be taken over the features."""
    module = Net(lambda self, x: self.head(F.relu(self.one(x))).softmax(1), one=nn.Linear(5, 6), head=nn.Linear(6, 3))
    with pytest.raises(ConversionError, match=r"got 'head'; it answers with .*softmax, which is no such layer"):
        hat.convert(module, X, head="head")


def test_a_named_head_that_is_called_twice():
    module = Net(lambda self, x: self.one(self.two(F.relu(self.one(x)))), one=nn.Linear(5, 5), two=nn.Linear(5, 5))
    for name in ("one", "two"):
        with pytest.raises(ConversionError, match=rf"got '{name}'; it answers with one \(called twice\)"):
            hat.convert(module, X, head=name)


def test_a_head_that_is_called_by_keyword():
    module = Net(lambda self, x: self.head(input=F.relu(self.one(input=x))), one=nn.Linear(5, 6), head=nn.Linear(6, 3))
    assert hat.convert(module, X).features == 6


@pytest.mark.parametrize("behind", [lambda h: h.view(-1, 3), lambda h: h.reshape(-1, 3).squeeze()])
def test_a_call_behind_the_head_must_fit_the_features(behind):
    """Three classes from 6 features: `view(-1, 3)` would make two samples of one."""
    module = Net(lambda self, x: behind(self.head(F.relu(self.one(x)))), one=nn.Linear(5, 6), head=nn.Linear(6, 3))
    with pytest.raises(ConversionError, match="head: expected only calls behind head"):
        hat.convert(module, X)


def test_the_only_class_may_be_squeezed():
    module = Net(lambda self, x: self.head(F.relu(self.one(x))).squeeze(-1), one=nn.Linear(5, 6), head=nn.Linear(6, 1))
    assert hat.convert(module, X).features == 6


def test_a_convolution_of_one_position():
    def forward(self, x):
        return self.head(F.relu(self.one(x)).mean((2, 3), keepdim=True)).flatten(1)

    module = Net(forward, one=nn.Conv2d(2, 6, 3), head=nn.Conv2d(6, 10, 1))
    model = hat.convert(module, torch.randn(4, 2, 5, 5))
    assert (model.body.head, model.features) == ("head", 6)
    assert model.body(torch.randn(3, 2, 5, 5)).shape == (3, 6)


@pytest.mark.parametrize("name", ["0.weight", "1", "nothing"])
def test_a_name_that_is_no_linear_layer(name):
    with pytest.raises(ConversionError, match=f"head: expected the name of a linear layer.*{name!r}"):
        hat.convert(net(), X, head=name)


def test_a_head_that_is_called_twice():
    module = Net(lambda self, x: self.one(F.relu(self.one(x))), one=nn.Linear(5, 5))
    with pytest.raises(ConversionError, match=r"one.*called twice; pass head=None"):
        hat.convert(module, X)


def test_a_convolution_whose_maps_are_the_answer():
    """A head reads the last dimension, which here would be a dimension of the image."""
    module = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with pytest.raises(ConversionError, match="head: expected 2, a convolution, before a flatten"):
        hat.convert(module, torch.randn(4, 2, 5, 5))
