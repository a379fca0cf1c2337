"""Networks of other libraries, exported and grown: one here, the others by `python -m tests.zoo.lives`."""

import pytest

from benchmarks import record
from tests.zoo.architectures import architectures
from tests.zoo.environment import prepare
from tests.zoo.lives import RESULTS, SHARE, TABLE, document, live

pytestmark = pytest.mark.skipif(not prepare(), reason="timm is not installed")


def test_a_network_is_exported_and_grows():
    row = live(next(each for each in architectures() if each.name == "TransformerEncoder"))
    assert row["outcome"] == "lives", row.get("reason")
    assert row["grown"] == row["axes"]
    assert SHARE**2 < row["kept"] < SHARE


def test_the_table_is_that_of_the_results():
    results = record.read(RESULTS)
    assert TABLE.read_text() == document(results)
    assert not [row["name"] for row in results["rows"] if row["outcome"] == "error"]
