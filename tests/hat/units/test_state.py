"""The task that a forward pass answers for."""

import copy
import pickle

import pytest
import torch
from torch import nn

import hat
from hat.units.state import LEARNING, OPEN, PLAIN, Finished, PerSample, State


def test_an_answer_holds_inside_its_block():
    state = State()
    assert state.answer is LEARNING
    with state.answering(Finished(2)):
        with state.answering(OPEN):
            assert state.answer is OPEN
        assert state.answer == Finished(2)
    assert state.answer is LEARNING


def test_an_error_ends_the_block():
    state = State()
    with pytest.raises(KeyError), state.answering(PLAIN):
        raise KeyError
    assert state.answer is LEARNING


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
@pytest.mark.parametrize("answer", [LEARNING, OPEN, PLAIN])
def test_a_copy_answers_for_the_same(copied, answer):
    state = State()
    with state.answering(answer):
        assert copied(state).answer is answer


def test_every_answer_in_one_graph():
    torch.manual_seed(0)
    x = torch.randn(4, 5)
    body = nn.Sequential(hat.HATLinear(5, 6), hat.HATBatchNorm1d(6), hat.Gate(6))
    model = hat.HATModel(body)
    for _ in range(2):
        model.begin_task(3)
        model(x)  # so that the norm has other statistics in every task
        model.end_task()
    torch._dynamo.reset()
    traced = torch.compile(body, fullgraph=True, backend="aot_eager")
    answers = (LEARNING, OPEN, PLAIN, Finished(0), Finished(1), PerSample(torch.tensor([0, 1, 1, 0])))
    results = []
    for answer in answers:
        with torch.no_grad(), model.state.answering(answer):
            results.append(body(x))
            torch.testing.assert_close(traced(x), results[-1])
    by_sample = torch.where(torch.tensor([0, 1, 1, 0])[:, None] == 0, results[3], results[4])
    torch.testing.assert_close(results[5], by_sample)


def test_a_model_answers_in_one_graph():
    torch.manual_seed(0)
    x = torch.randn(4, 5)
    model = hat.HATModel(hat.HATLinear(5, 6))
    for _ in range(2):
        model.begin_task(3)
        model.end_task()
    model.begin_task(3)
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    for task in (0, 1, None, 2):
        torch.testing.assert_close(traced(x, task=task), model(x, task=task))
        assert model.state.answer is LEARNING
