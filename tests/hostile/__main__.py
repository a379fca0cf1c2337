"""`python -m tests.hostile [PART OF A NAME ...]`: read all kinds of hostile files, and print what is wrong."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.hostile import all_kinds
from tests.hostile.kind import CAP
from tests.hostile.watching import watch


def main(parts: list[str]) -> int:
    """The command line. Returns 1 if anything was found, otherwise 0."""
    kinds = [kind for kind in all_kinds() if not parts or any(part in kind.name for part in parts)]
    started, wrong, peak = time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, result in watch(kinds, Path(folder)):
            peak = max(peak, result.peak)
            text = result.wrong(kind)
            wrong += text is not None
            if text is not None:
                print(f"{kind.name}: {text[:600]!r}", flush=True)
    counts = Counter(kind.name.partition("/")[0] for kind in kinds)
    print(f"{len(kinds)} kinds ({', '.join(f'{number} {name}' for name, number in counts.items())}), {wrong} wrong")
    print(f"largest peak {peak / CAP:.2f} times the cap, {time.perf_counter() - started:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
