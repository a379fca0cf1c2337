"""Networks of other libraries are exported and grow: one network here, all others in `python -m tests.zoo.lives`."""

import pytest

from benchmarks import record
from tests.zoo.architectures import architectures
from tests.zoo.environment import prepare
from tests.zoo.lives import RESULTS, SHARE, TABLE, document, live

pytestmark = pytest.mark.skipif(not prepare(), reason="timm is not installed")


def test_a_network_is_exported_and_grows():
    row = live(next(architecture for architecture in architectures() if architecture.name == "TransformerEncoder"))
    assert row["outcome"] == "lives", row.get("reason")
    assert row["grown"] == row["axes"]
    assert SHARE**2 < row["kept"] < SHARE


def test_the_page_shows_the_stored_results():
    results = record.read(RESULTS)
    assert TABLE.read_text() == document(results)
    assert not [row["name"] for row in results["rows"] if row["outcome"] == "error"]
