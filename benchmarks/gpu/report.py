"""The tables and the plot of a GPU, made from its results file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.exported import DENSE, EXPORTED
from benchmarks.gpu import converted
from benchmarks.gpu.steps import KINDS, TRAIN_STEP
from benchmarks.serving import APART, MIXED, ONE
from benchmarks.serving import KINDS as SERVED
from benchmarks.tables import table
from benchmarks.variants import IN_MATMUL, OURS, PLAIN, TEXTBOOK

Row = dict[str, Any]
STEPS = (*KINDS, TRAIN_STEP)
ORDER = ("ours", "ours, free blocks", "ours, all kernels", "unfolded", "reference", "compiled reference")
ORDER += ("torch._fused_sgd_", "torch._fused_adamw_", "plain", "textbook")


def report(results: dict[str, Any]) -> str:
    """All tables as a Markdown page."""
    facts, ceilings, rows = results["environment"], results["ceilings"], results["rows"]
    matmul = ", ".join(f"{rate / 1e12:.0f} TFLOP/s {dtype}" for dtype, rate in ceilings["matmul"].items())
    parts = [
        f"# {facts['gpu']}",
        f"Driver {facts['driver']}, torch {facts['torch']}, triton {facts['triton']}, Python {facts['python']}, commit"
        f" {facts['commit'][:9]}. Measured: {ceilings['copy'] / 1e9:.0f} GB/s in a copy (read and written), {matmul}.",
        _tests(results.get("tests", [])),
        "## Whole training steps",
        "Median ms; ratios are medians over interleaved rounds.",
        _steps([row for row in rows if row["part"] == "step"]),
        _converted([row for row in rows if row["part"] == "converted"]),
        _mixed([row for row in rows if row["part"] == "mixed"]),
        _exported([row for row in rows if row["part"] == "exported"]),
        "## Whole runs",
        "The time of a whole run, including the evaluation of all tasks after every task.",
        _whole([row for row in rows if row["part"] == "whole"]),
        "## Single operations",
        "The bytes of every input and output are counted once; locked elements are not counted. `copy` is the share of"
        " the measured bandwidth of a copy, `matmul` is the share of the measured rate of a matmul.",
        _operations([row for row in rows if row["part"] == "operation" and "shape" in row]),
        _choices([row for row in rows if row["part"] == "choice" and "ms" in row]),
        _errors(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(results: dict[str, Any], path: Path) -> bool:
    """Draw the bandwidth of `ours` over the size, and the measured bandwidth of a copy.

    Returns:
        False if matplotlib is missing, or if there is nothing to draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = _bandwidths(results["rows"])
    operations = list(dict.fromkeys(operation for operation, _ in lines))
    if not operations:
        return False
    columns = min(4, len(operations))
    height = -(-len(operations) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(height, columns, squeeze=False).flatten()
    for axes in panels[len(operations) :]:
        axes.set_axis_off()
    for axes, operation in zip(panels, operations, strict=False):
        axes.axhline(results["ceilings"]["copy"] / 1e9, color="black", linewidth=0.8, linestyle=":")
        for dtype, colour in (("fp32", "#332288"), ("fp16", "#cc6677"), ("bf16", "#44aa99")):
            points = sorted(lines.get((operation, dtype), []))
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", color=colour, label=dtype)
        axes.set(title=operation, xscale="log", xlabel="MiB of the main tensor", ylabel="GB/s")
        axes.set_ylim(0, 1.1 * results["ceilings"]["copy"] / 1e9)
        axes.title.set_fontsize(9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{results['environment']['gpu']}: bandwidth of ours (dotted: measured copy)", fontsize=11)
    figure.savefig(path, dpi=140)
    return True


def _bandwidths(rows: list[Row]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Points (MiB, GB/s) of `ours` by operation and dtype.

    For updates, only rows with nothing locked count. For other operations, rows with half of the units locked count
    too.
    """
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        bound_by_memory = row["part"] == "operation" and row.get("size") and not row.get("flops")
        update = row.get("operation", "").startswith(("sgd", "adamw"))
        if (
            bound_by_memory
            and "gbs" in row
            and row["variant"] == "ours"
            and row["locked"] in ((0,) if update else (0, 0.5))
        ):
            points.setdefault((row["operation"], row["dtype"]), []).append((row["size"] / 2**20, row["gbs"]))
    return points


def _tests(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = [[row["tests"], row["status"], str(row.get("passed", 0)), str(row.get("failed", 0))] for row in rows]
    return "## Tests on this GPU\n\n" + table(["tests", "result", "passed", "failed"], lines)


def _steps(rows: list[Row]) -> str:
    lines = []
    for (operation, locked, mode), variants in _grouped(rows, "operation", "locked", "mode").items():
        line = [operation, f"{100 * locked:.0f} %", mode]
        line += [_ms(variants.get(kind)) for kind in STEPS]
        line += [_ratio(variants.get(kind), PLAIN) for kind in (OURS, IN_MATMUL, TRAIN_STEP)]
        lines.append([*line, _ratio(variants.get(TEXTBOOK), OURS)])
    ratios = [f"{kind} / plain" for kind in (OURS, IN_MATMUL, TRAIN_STEP)]
    return table(["step", "locked", "mode", *STEPS, *ratios, "textbook / ours"], lines)


def _converted(rows: list[Row]) -> str:
    lines = []
    for (operation, locked, mode), variants in _grouped(rows, "operation", "locked", "mode").items():
        times = [_ms(variants.get(kind)) for kind in converted.KINDS]
        lines.append([operation, f"{100 * locked:.0f} %", mode, *times, _ratio(variants.get(OURS), PLAIN)])
    if not lines:
        return ""
    titles = ["step", "locked", "mode", *converted.KINDS, f"{OURS} / {PLAIN}"]
    text = "Converted networks, with forward pass and loss under autocast to bfloat16; median ms."
    return "\n\n".join(["### Bound by arithmetic", text, table(titles, lines)])


def _mixed(rows: list[Row]) -> str:
    lines = []
    for (operation,), variants in _grouped([row for row in rows if "variant" in row], "operation").items():
        times = [_ms(variants.get(kind)) for kind in SERVED]
        lines.append([operation, *times, _ratio(variants.get(MIXED), ONE), _ratio(variants.get(APART), MIXED)])
    if not lines:
        return ""
    titles = ["answers for", *SERVED, f"{MIXED} / {ONE}", f"{APART} / {MIXED}"]
    return "\n\n".join(["### Many tasks in one batch", "Eager; median ms.", table(titles, lines)])


def _exported(rows: list[Row]) -> str:
    lines = []
    for (operation, share, mode), variants in _grouped(rows, "operation", "share", "mode").items():
        ratio = (variants.get(EXPORTED) or {}).get("ratio_to", {}).get(DENSE)
        per_square = "" if ratio is None else f"{ratio / share**2:.2f}"
        times = [_ms(variants.get(kind)) for kind in (DENSE, EXPORTED)]
        ratios = [_ratio(variants.get(EXPORTED), DENSE), per_square]
        lines.append([operation, f"{100 * share:.0f} %", mode, *times, *ratios])
    if not lines:
        return ""
    titles = ["network", "p", "mode", DENSE, EXPORTED, f"{EXPORTED} / {DENSE}", "/ p²"]
    text = "A forward pass of a network whose task uses the share p of every layer; median ms."
    return "\n\n".join(["### Exported networks", text, table(titles, lines)])


def _whole(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        measured = ["no"] * 3
        if "seconds" in row:
            measured = [f"{row['seconds']:.1f}", f"{row['accuracy']:.2%}", f"{row['drift']:g}"]
        lines.append([row["operation"], row["mode"], row["variant"], *measured])
    return table(["run", "mode", "variant", "seconds", "accuracy", "largest drift"], lines)


def _choices(rows: list[Row]) -> str:
    """The fastest block of every pass of a linear layer, and the vendor's matmul."""
    lines = []
    for (operation, shape, dtype), variants in _grouped(rows, "operation", "shape", "dtype").items():
        fastest = min(variants, key=lambda name: variants[name]["ms"]["p50"])
        lines.append([operation, shape, dtype, _ms(variants.get("vendor")), fastest, _ms(variants[fastest])])
    titles = ["pass", "shape", "arithmetic", "vendor, ms", "fastest", "ms"]
    return "## Kernels of linear layers\n\n" + table(titles, lines) if lines else ""


def _operations(rows: list[Row]) -> str:
    lines = []
    for (operation, shape, dtype, locked), variants in _grouped(rows, "operation", "shape", "dtype", "locked").items():
        for name in (name for name in ORDER if name in variants):
            row = variants[name]
            line = [operation, shape, dtype, f"{100 * locked:.0f} %", name, _ms(row)]
            if "ms" in row:
                line += [f"{row['ms']['p20']:.4f} to {row['ms']['p80']:.4f}", f"{row['gbs']:.0f}"]
                line += [f"{100 * row['copy_share']:.0f} %", _share(row), _ratio(row, "ours")]
            else:
                line += [""] * 5
            lines.append(line)
    header = [
        "operation",
        "shape",
        "dtype",
        "locked",
        "variant",
        "ms",
        "p20 to p80",
        "GB/s",
        "copy",
        "matmul",
        "/ ours",
    ]
    return table(header, lines)


def _errors(rows: list[Row]) -> str:
    errors = [[row["operation"], str(row.get("dtype", "")), row.get("variant", ""), row["error"]] for row in rows
             if "error" in row]  # fmt: skip
    eager = [[row["operation"], row.get("dtype", ""), row["variant"], row["timed"]] for row in rows
             if "failed" in row.get("timed", "")]  # fmt: skip
    if not errors + eager:
        return ""
    header = ["operation", "dtype", "variant", "why"]
    return "## Not measured, or measured in another way\n\n" + table(header, errors + eager)


def _grouped(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], dict[str, Row]]:
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if all(key in row for key in keys):
            groups.setdefault(tuple(row[key] for key in keys), {})[row["variant"]] = row
    return groups


def _ms(row: Row | None) -> str:
    return f"{row['ms']['p50']:.4f}" if row and "ms" in row else "no"


def _share(row: Row) -> str:
    return f"{100 * row['matmul_share']:.0f} %" if "matmul_share" in row else ""


def _ratio(row: Row | None, other: str) -> str:
    ratio = (row or {}).get("ratio_to", {}).get(other)
    return "" if ratio is None else f"{ratio:.2f}"
