"""The page docs/zoo.md, made from the results file."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.markdown import percent, table

_HEADER = ("family", "network", "parameters", "gates", "units", "used", "locked", "frozen", "difference", "drift")
_TEXT = """# The zoo

`make zoo` converts networks of other libraries, with random weights, with `hat.convert`. It compares every converted
network with the original, and lets it learn two tasks of random data with momentum and weight decay.

- *used*: the share of units that the first task uses.
- *locked*: the share of the shared parameters that no later task can move.
- *frozen*: the share of the shared parameters that lie along no gate. Every task uses all of them, so they are frozen
  after the first task.
- *difference*: with open gates, the largest difference between the inputs of the heads and the input of the original's
  head, divided by the largest input. It comes from another order of summation only.
- *drift*: the largest change of any logit of the first task after the second task was learned. It has to be 0.
"""


def document(results: dict[str, Any]) -> str:
    """The whole page `docs/zoo.md`."""
    rows = results["rows"]
    counts = Counter(row["outcome"] for row in rows)
    families = len({row["family"] for row in rows if row["outcome"] == "converted"})
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        _TEXT,
        f"{counts['converted']} of {len(rows)} networks, of {families} families, with {versions}.\n",
        table(_HEADER, [_line(row) for row in rows if row["outcome"] == "converted"]) + "\n",
    ]
    if refused := [row for row in rows if row["outcome"] == "refused"]:
        reasons = [(row["family"], row["name"], _cell(row["reason"])) for row in refused]
        parts.append("## Refused\n\n" + table(("family", "network", "reason"), reasons) + "\n")
    if errors := [row for row in rows if row["outcome"] == "error"]:
        reasons = [(row["family"], row["name"], _cell(row["reason"])) for row in errors]
        parts.append("## Errors\n\n" + table(("family", "network", "error"), reasons) + "\n")
    return "\n".join(parts)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["family"],
        row["name"],
        f"{row['parameters'] / 1e6:.1f} M",
        str(row["gates"]),
        str(row["units"]),
        percent(row["used"]),
        percent(row["locked"]),
        percent(row["frozen"]),
        f"{row['difference']:.0e}" if row["difference"] else "0",
        f"{row['drift']:g}",
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
