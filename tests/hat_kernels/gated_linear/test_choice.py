"""Which kernel computes a matmul: by the table of measured choices, and without an entry in it."""

import pytest
import torch

from hat_kernels.gated_linear import blocks, choice

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "name"),
    [((64, 2000, 784), "64x2048x1024"), ((1, 1, 1), "1x1x1"), ((65, 128, 129), "128x128x256"), ((0, 1, 2), "1x1x2")],
)
def test_classes_of_shapes(sizes, name):
    assert choice.shape_class(*sizes) == name


def test_what_is_written_is_read(tmp_path):
    entries = {("forward", "bf16", "64x2048x1024"): "narrow", ("dw", "fp32", "1x1x1"): "vendor"}
    choice.write(tmp_path / "a" / "gpu.json", entries)
    assert choice.read(tmp_path / "a" / "gpu.json") == entries


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"forward": "narrow"}',
        '{"sideways bf16 1x1x1": "narrow"}',
        '{"forward fp64 1x1x1": "narrow"}',
        '{"forward bf16 3x1x1": "narrow"}',
        '{"forward bf16 1x1": "narrow"}',
        '{"forward bf16 1x1x1": "plain"}',
        '{"forward fp32 1x1x1": "wide"}',
        '{"forward bf16 1x1x1": 3}',
    ],
)
def test_a_table_that_is_none(text, tmp_path):
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(ValueError, match=r"gpu\.json: expected"):
        choice.read(tmp_path / "gpu.json")


def test_every_table_that_ships_is_one():
    for path in choice.FOLDER.glob("*.json"):
        assert choice.read(path)


def test_what_was_measured_counts(monkeypatch):
    entries = {("forward", "bf16", "64x64x64"): "wide", ("dx", "bf16", "64x64x64"): "vendor"}
    monkeypatch.setattr(choice, "table", lambda gpu: entries)
    forward = choice.choose("forward", "bf16", 50, 64, 33, CPU, forced=False)
    assert forward == blocks.BLOCKS["forward"]["wide"]
    assert choice.choose("dx", "bf16", 64, 64, 64, CPU, forced=False) is None
    assert choice.choose("dw", "bf16", 64, 64, 64, CPU, forced=False) is None
    assert choice.choose("dx", "bf16", 64, 64, 64, CPU, forced=True) == blocks.BLOCKS["dx"]["narrow"]
    assert choice.takes(torch.zeros(2, 25, 33), torch.zeros(64, 33))
    assert not choice.takes(torch.zeros(2, 33), torch.zeros(64, 33))


@pytest.mark.parametrize("purpose", choice.PASSES)
def test_larger_products_get_larger_blocks(purpose):
    sizes = [(64, 64, 64), (1536, 1536, 1536), (8192, 8192, 8192)]
    choices = [choice.choose(purpose, "bf16", *size, CPU, forced=True) for size in sizes]
    assert choices[::2] == [blocks.BLOCKS[purpose][name] for name in ("narrow", "wide")]
    assert choices[1] != choices[0]
    assert choice.choose(purpose, "fp32", 64, 64, 64, CPU, forced=True) == blocks.PLAIN


def test_without_a_table_nothing_is_chosen():
    assert choice.gpu_of(CPU) == ""
    assert choice.table("") == choice.table("no such gpu") == {}
    assert not choice.takes(torch.zeros(2, 3), torch.zeros(4, 3))
