"""`python -m tests.zoo.lives`: export and grow the networks of the zoo; write docs/lives.md and results/lives.json.

`python -m tests.zoo.lives NAME ...` runs the named networks only. Every row is written as soon as it is measured.
Networks that have a row are not run again.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hat
from benchmarks import record
from benchmarks.markdown import percent, table
from hat.units.per_task import per_task
from tests.zoo.architectures import Architecture, architectures
from tests.zoo.environment import prepare

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "benchmarks" / "results" / "lives.json", ROOT / "docs" / "lives.md"
SAMPLES, CLASSES, SHARE, MORE = 3, 5, 0.5, 4
ROUNDING = 1e-5  # of the largest logit

_TEXT = f"""# The zoo, exported and grown

`python -m tests.zoo.lives` converts the networks of [the zoo](zoo.md) with random weights, adds two tasks, exports the
network of the second task with `hat.export`, and adds units with `hat.grow`. Each task uses {SHARE:.0%} of the units of
every axis, drawn at random.

- *kept*: the parameters of the exported network, as a share of the parameters of the whole network. In layers that keep
  half of their inputs and half of their outputs, the share is {SHARE**2:.0%}.
- *exported*: the largest difference between the logits of the exported network and the logits of the model, divided by
  the largest logit.
- *grown*: the number of axes that got {MORE} units or a few more, of all axes.
- *grown changes*: the largest change of the second task's logits when the network grows, divided by the largest logit.

Both differences are rounding errors, because sums with other numbers of zeros are rounded in another way.

In three cases the exported network keeps units that the task does not use. The layer computes with the number of units:
a mean over channels, a convolution along the channels. Or the layer treats every unit in its own way: a product of
positions and units. Or the layer needs parts of equal size: heads of attention, groups of a convolution.
"""


def live(architecture: Architecture) -> dict[str, Any]:
    """Export and grow one network. Returns a row of the table. No exception leaves this function."""
    torch.manual_seed(0)
    row: dict[str, Any] = {"name": architecture.name, "family": architecture.family}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return row | _live(architecture) | {"outcome": "lives"}
    except hat.ConversionError as error:
        return row | {"outcome": "refused", "reason": str(error)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        return row | {"outcome": "error", "reason": f"{type(error).__name__}: {error} ({place})"}


@torch.no_grad()
def _live(architecture: Architecture) -> dict[str, Any]:
    network = architecture.make()
    count = sum(parameter.numel() for parameter in network.parameters())
    model = hat.convert(network, architecture.inputs(2), head=architecture.head)
    for _ in range(2):
        model.begin_task(CLASSES)
        _randomize(model)
        model.end_task()
    inputs = architecture.inputs(SAMPLES)
    logits = model.eval()(inputs, task=1)
    small = hat.export(model, task=1)
    exported = _change(small(inputs), logits)
    joined = hat.grow(model, MORE)
    grown = _change(model(inputs, task=1), logits)
    if not max(exported, grown) <= ROUNDING:
        raise ValueError(f"exported differs by {exported:.2g}, grown by {grown:.2g} of the largest logit")
    return {
        "kept": sum(p.numel() for p in small.parameters()) / count,
        "exported": exported,
        "axes": len(model.gates),
        "grown": len(joined),
        "grown_changes": grown,
    }


def _randomize(model: hat.HATModel) -> None:
    """Choose random units for the task, and change the norms at random, as training would."""
    for gate in model.gates.values():
        on = torch.rand(gate.units) < SHARE
        on[torch.randint(gate.units, ())] = True
        gate.embedding.copy_(torch.where(on, 1.0, -1.0))
    for module in per_task(model.body).values():
        for _, values in module.current():
            if values.is_floating_point():
                values.mul_(1 + 0.1 * torch.rand_like(values))


def _change(after: Tensor, before: Tensor) -> float:
    """The largest difference, divided by the largest value before."""
    return float((after - before).abs().max() / before.abs().max().clamp(min=1e-12))


def document(results: dict[str, Any]) -> str:
    """The whole page `docs/lives.md`."""
    rows = [row for row in results["rows"] if row["outcome"] == "lives"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    header = ("family", "network", "kept", "exported", "grown", "grown changes")
    lines = [
        (
            row["family"],
            row["name"],
            percent(row["kept"]),
            f"{row['exported']:.0e}" if row["exported"] else "0",
            f"{row['grown']} of {row['axes']}",
            f"{row['grown_changes']:.0e}" if row["grown_changes"] else "0",
        )
        for row in rows
    ]
    errors = [(row["family"], row["name"], row["reason"]) for row in results["rows"] if row["outcome"] == "error"]
    errors_text = f"\n## Errors\n\n{table(('family', 'network', 'error'), errors)}\n" if errors else ""
    return f"{_TEXT}\n{len(rows)} networks, with {versions}.\n\n{table(header, lines)}\n{errors_text}"


def main(names: list[str]) -> int:
    """The command line. Returns 1 if there was an error with a network that is not refused, otherwise 0."""
    if not prepare():
        raise SystemExit("timm, transformers: expected to be installed; run `make zoo`")
    torch.set_flush_denormal(True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "transformers")}
    rows = record.read(RESULTS)["rows"] if RESULTS.exists() else []
    order = [architecture.name for architecture in architectures()]
    for architecture in architectures():
        if architecture.name in {row["name"] for row in rows} or (names and architecture.name not in names):
            continue
        rows = sorted([*rows, live(architecture)], key=lambda row: order.index(row["name"]))
        record.write(RESULTS, {"versions": versions, "rows": rows})
        record.write_text(TABLE, document(record.read(RESULTS)))
        gc.collect()
    return int(any(row["outcome"] == "error" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
