"""Names of modules and tensors, and names that other people chose."""

import pytest

from hat.text import dotted, printable


@pytest.mark.parametrize(
    ("names", "full_name"),
    [(("body", "0", "weight"), "body.0.weight"), (("body", "", "masks"), "body.masks"), ((), "")],
)
def test_the_name_of_a_network_itself_is_left_out(names, full_name):
    assert dotted(*names) == full_name


def test_a_name_of_another_person_stays_on_one_line_and_steers_no_terminal():
    assert printable("a\nb\x1b[2J\udcff.png") == r"a\nb\x1b[2J\udcff.png"
    assert printable("日本 é.png") == "日本 é.png"
