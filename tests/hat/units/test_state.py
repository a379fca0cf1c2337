"""The task that a forward pass answers for."""

import copy
import pickle
import threading

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


def in_a_thread(run):
    """What a function returns, or the error that it raises, in another thread."""
    results = []

    def call():
        try:
            results.append(run())
        except RuntimeError as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return results[0]


def test_every_thread_has_its_own_answer():
    state = State()

    def another():
        with state.answering(Finished(1)):
            return state.answer

    with state.answering(Finished(0)):
        assert in_a_thread(another) == Finished(1)
        assert state.answer == Finished(0)


def test_a_thread_that_may_compute_a_part_of_a_pass_is_told():
    state = State()
    with state.answering(Finished(0)):
        with state.answering(LEARNING):
            pass
        assert "got another thread while the model" in str(in_a_thread(lambda: state.answer))
    assert in_a_thread(lambda: state.answer) is LEARNING
    with state.answering(LEARNING):
        assert in_a_thread(lambda: state.answer) is LEARNING


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
@pytest.mark.parametrize("answer", [LEARNING, OPEN, PLAIN])
def test_a_copy_is_in_no_pass(copied, answer):
    state = State()
    with state.answering(answer):
        copy_of_state = copied(state)
        assert copy_of_state.answer is LEARNING
        with copy_of_state.answering(OPEN):
            assert (state.answer, copy_of_state.answer) == (answer, OPEN)


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
