"""`python -m tests.zoo.lives`: export and grow the networks of the zoo; writes docs/lives.md and the results behind it.

With names, only those. Rows are written as they come, and networks that have one are left out.
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

What `hat.export` and `hat.grow` make of the networks of [the zoo](zoo.md), converted with random weights, after two
tasks that use {SHARE:.0%} of the units of every axis, drawn at random: `python -m tests.zoo.lives`. *kept*: parameters
of the network exported for the second task, of those of the whole one; {SHARE**2:.0%} where layers take in half and
put out half. *exported*: the largest change of its logits, of the largest. *grown*: axes to which {MORE} units or a
little more were added, of all. *grown changes*: the largest change of the second task's logits by that. Both are
roundings: a sum has other zeros among its terms.

What is kept besides is what computes with the number of units (a mean over channels, a convolution along them), meets
them one by one (a product of positions and units), or has to be even: heads of attention, groups of a convolution.
"""


def live(architecture: Architecture) -> dict[str, Any]:
    """A row of the table; nothing is raised."""
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
        _draw(model)
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


def _draw(model: hat.HATModel) -> None:
    """Units and norms as some training might have left them."""
    for gate in model.gates.values():
        on = torch.rand(gate.units) < SHARE
        on[torch.randint(gate.units, ())] = True
        gate.embedding.copy_(torch.where(on, 1.0, -1.0))
    for module in per_task(model.body).values():
        for _, values in module.current():
            if values.is_floating_point():
                values.mul_(1 + 0.1 * torch.rand_like(values))


def _change(now: Tensor, then: Tensor) -> float:
    return float((now - then).abs().max() / then.abs().max().clamp(min=1e-12))


def document(results: dict[str, Any]) -> str:
    """All of `docs/lives.md`."""
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
    wrong = [(row["family"], row["name"], row["reason"]) for row in results["rows"] if row["outcome"] == "error"]
    failed = f"\n## Errors\n\n{table(('family', 'network', 'error'), wrong)}\n" if wrong else ""
    return f"{_TEXT}\n{len(rows)} networks, with {versions}.\n\n{table(header, lines)}\n{failed}"


def main(names: list[str]) -> int:
    """Returns 1 where something went wrong with a network that is not refused."""
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
