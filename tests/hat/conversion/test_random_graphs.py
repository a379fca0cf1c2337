"""Random networks: the same function, right gradients, and nothing forgotten."""

import copy
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hat
from tests.hat.conversion.checks import OPTIMIZERS, no_drift, nothing_forgotten, right_gradients, same_function
from tests.hat.conversion.graphs import graphs

pytestmark = [
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning"),
    pytest.mark.filterwarnings("ignore::hat.UnlockedWarning"),
    pytest.mark.usefixtures("one_thread"),
]
EXAMPLES = int(os.environ.get("HAT_GRAPHS", "10"))
"""The number of random networks. With an environment variable there are more networks, and larger ones."""
FEW = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
networks = graphs(10 if EXAMPLES < 100 else 16)


@FEW
@given(network=networks, seed=st.integers(0, 2**16), name=st.sampled_from(sorted(OPTIMIZERS)), first=st.booleans())
def test_a_random_network(network, seed, name, first):
    module, example = network
    model = same_function(module, example, config=hat.GateConfig(locked_first=first))
    right_gradients(copy.deepcopy(model), example, seed)
    no_drift(copy.deepcopy(model), example, name, seed=seed, tasks=2)
    nothing_forgotten(model, example, seed=seed)
