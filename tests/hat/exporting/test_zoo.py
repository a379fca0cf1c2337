"""Every network of the zoo, exported: the same logits, nothing gated, and no unit left that could go.

An exported network that keeps too much computes the right thing all the same, so how much it keeps is written down.
"""

import pytest
import torch

import hat
from hat.layers.gated import GatedLayer
from hat.units.composed import GatedAnywhere
from tests.hat.conversion.checks import convert, draw_per_task, draw_units, others
from tests.hat.conversion.zoo import NETWORKS

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]
WELL_KNOWN = (
    "mlp",
    "resnet",
    "transformer_fused",
    "swiglu",
    "squeeze_and_excite",
    "flattened_by_view",
    "qkv_by_reshape",
)
ALONE = sorted({*sorted(NETWORKS)[::2], *WELL_KNOWN})
"""The networks of which one task is exported. Of all others, two tasks are exported together."""
GATED = (hat.Gate, hat.PerTask, GatedLayer, GatedAnywhere)
ONE = {
    "called_twice_on_others": [5, 1],  # of 2, 1: inputs are units too
    "chosen_by_a_parameter": [8, 1],  # of 3, 1: a choice among all
    "constants": [6, 1],  # of 2, 1: a constant a unit
    "depthwise_of_inputs": [2, 2],  # of 1, 2: groups of two
    "grouped": [2, 6, 2, 1],  # of 1, 2, 1, 1: groups of two and of three, shuffled
    "grouped_queries": [2, 2, 1],  # of 1, 2, 1: heads
    "language_model": [2, 1, 11],  # of 2, 1, 4: every word is looked up
    "linear_attention": [10, 1, 1],  # of 3, 1, 1: a softmax over units
    "mixer": [5, 1, 4, 2, 2],  # of 2, 1, 1, 2, 2: a mean over tokens that are units
    "moments": [6, 1],  # of 2, 1: a mean over units
    "one_hot_rows": [5, 1],  # of 2, 1: a mean over units
    "one_scale_for_units_and_inputs": [5, 1],  # of 2, 1: inputs are units too
    "pixel_shuffle": [4, 2, 1],  # of 1, 2, 1: units become positions
    "projected_words": [1, 6, 1],  # of 1, 2, 1: rows of a table that no unit is in
    "qkv_by_reshape": [3, 1, 2, 3],  # of 3, 1, 1, 3: heads; queries, keys and values alike
    "standardised_weights": [4, 2, 1],  # of 1, 2, 1: a mean over weights
    "sum_with_inputs": [5, 1],  # of 2, 1: inputs are units too
    "switched_off_by_hand": [6, 6, 1],  # of 2, 1, 1: a constant a unit
    "torch_attention": [3, 6, 6, 1],  # of 3, 1, 3, 1: heads; queries, keys and values alike
    "transformer_by_hand": [3, 2, 6, 2, 2],  # of 3, 1, 3, 2, 2: heads
    "transformer_fused": [3, 2, 6, 2, 2],  # of 3, 1, 3, 2, 2: heads
    "transposed": [1, 4, 2, 1],  # of 1, 2, 1, 1: groups of two
    "transposed_weights": [2, 2, 2, 4],  # of 2, 1, 1, 4: heads
    "units_beside_inputs_times_a_switch": [4, 5, 1],  # of 1, 2, 1: a switch a unit and an input
    "windows": [1, 2, 2, 1, 2],  # of 1, 2, 1, 1, 2: heads
}
"""Networks that keep more units than task 1 uses: the units of every gate.

The comment says how many units the task uses, and why the other units stay.
"""

BOTH = {
    "bounded": [4, 2, 6, 4],  # of 4, 2, 3, 4: a softmax over units
    "chosen_by_a_table": [2, 6, 3],  # of 2, 3, 3: a choice among all
    "cross_attention": [8, 8, 6, 2],  # of 5, 4, 6, 2: weights that are computed
    "depthwise": [4, 2],  # of 3, 2: two filters a unit
    "gated_sum_with_inputs": [5, 2],  # of 4, 2: inputs are units too
    "inputs_among_tokens": [6, 2, 4],  # of 4, 2, 4: inputs are units too
    "kernel_attention": [5, 2, 3],  # of 4, 2, 3: a quotient of units
    "layer_norm_over_an_image": [4, 2],  # of 3, 2: a norm of a unit a group
    "matrix_by_hand": [6, 2],  # of 4, 2: a matrix that is no layer
    "norms_of_a_square": [5, 3],  # of 4, 1: heads see positions
    "padded": [4, 4, 2, 3, 3],  # of 3, 2, 2, 3, 3: a border that is not 0
    "patches": [3, 3, 2],  # of 2, 3, 2: a border
    "pooled_over_tokens_and_units": [5, 2],  # of 4, 2: neighbours meet
    "product_with_inputs_beside_units": [6, 2, 5, 2],  # of 4, 2, 4, 2: inputs are units too
    "qkv_by_reshape": [5, 3, 6, 4],  # of 5, 2, 5, 4: heads; queries, keys and values alike
    "relative_positions": [12, 6, 4],  # of 6, 3, 4: heads; queries, keys and values alike
    "scales_of_inputs_beside_units": [6, 2],  # of 4, 2: inputs are units too
    "sorted_units": [5, 2],  # of 4, 2: a choice among all
    "sum_of_a_table": [6, 2],  # of 4, 2: a mean over units
    "sum_with_inputs_beside_units": [6, 2, 5, 2],  # of 4, 2, 4, 2: inputs are units too
    "switched_off_by_units": [6, 6, 6, 4],  # of 4, 2, 3, 4: masks made of units
    "talking_heads": [4, 4, 2, 2, 3],  # of 4, 2, 2, 2, 3: heads
    "torch_encoder": [5, 8, 8, 6, 4],  # of 5, 4, 6, 6, 4: heads
    "transposed_weights_and_others": [4, 2, 3, 4, 5, 7, 3],  # of 4, 2, 3, 4, 5, 4, 3: a mean over tokens that are units
    "unknown_function": [6, 3, 2],  # of 4, 3, 2: a sum up to each unit
    "words_read_and_written": [4, 3, 11],  # of 4, 3, 8: every word is looked up
}
"""The same for tasks 0 and 1 together."""


def learned(name):
    """(model with two tasks, example, other inputs)."""
    module, example = NETWORKS[name]()
    model = convert(module, example, head=None)
    for task in range(2):
        model.begin_task(3)
        draw_units(model, task, 0.4)
        draw_per_task(model, task)
        model.end_task()
    return model, others(example)


@torch.no_grad()
def same_logits(model, network, inputs, task, options):
    expected = model(inputs if len(inputs) > 1 else inputs[0], task=task)
    torch.testing.assert_close(network(*inputs, **options), expected, rtol=1e-10, atol=1e-10)
    assert not [module for module in network.modules() if isinstance(module, GATED)]


@pytest.mark.parametrize("name", ALONE)
def test_one_task(name):
    model, inputs = learned(name)
    network = hat.export(model, task=1)
    same_logits(model, network, inputs, 1, {})
    used = [int(gate.masks[1].sum()) for gate in model.gates.values()]
    assert list(network.units.values()) == ONE.get(name, used), used


@pytest.mark.parametrize("name", [name for name in sorted(NETWORKS) if name not in ALONE])
def test_two_tasks(name):
    model, inputs = learned(name)
    network = hat.export(model, tasks=[0, 1])
    for task in range(2):
        same_logits(model, network, inputs, task, {"task": task})
    used = [int(gate.used.sum()) for gate in model.gates.values()]
    assert list(network.units.values()) == BOTH.get(name, used), used


def test_a_network_in_bfloat16_with_norms_is_exported():
    """With drawn weights its values differ by more than an eighth of the largest, and all of it is rounding."""
    module, example = NETWORKS["normalised"]()
    example = tuple(x.bfloat16() for x in example)
    model = convert(module.bfloat16(), example, head=None)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        model.begin_task(2)
        with torch.no_grad():
            for embedding in model.embeddings:
                embedding.copy_(torch.randn(embedding.shape, generator=generator))
        model.end_task()
    small = hat.export(model, task=1)
    torch.testing.assert_close(small(*example), model(example, task=1), rtol=0.02, atol=0.02)
