"""Read and write `benchmarks/results/*.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hat.checkpoint import replacing

FOLDER = Path(__file__).resolve().parent / "results"
CPU = FOLDER / "cpu.json"


def write(path: Path, results: dict[str, Any]) -> None:
    """Replace the file by the results, in one step. Floats are rounded to six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(_rounded(results), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace the file by the text, in one step: a reader sees the old file or the whole new one."""
    with replacing(path) as file:
        file.write(text.encode())


def read(path: Path) -> dict[str, Any]:
    """Read results that `write` wrote.

    Raises:
        ValueError: there is no such file, or it holds no results.
    """
    try:
        results = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected results of `python -m benchmarks`, got {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
        raise ValueError(f"{path}: expected results of `python -m benchmarks`, got something else")
    return results


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, (list, tuple)) else value
