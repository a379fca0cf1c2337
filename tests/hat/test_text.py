"""Names of modules and tensors."""

import pytest

from hat.text import dotted


@pytest.mark.parametrize(
    ("names", "full_name"),
    [(("body", "0", "weight"), "body.0.weight"), (("body", "", "masks"), "body.masks"), ((), "")],
)
def test_the_name_of_a_network_itself_is_left_out(names, full_name):
    assert dotted(*names) == full_name
