"""README, CONTRIBUTING and docs: their code runs, their commands are understood, their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, blocks_of, check, is_run, run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    """In an empty folder and a process of its own, by the data of `HAT_DATA` or what comes with packages."""
    if not any(block.kind in ("python", "sh") for block in blocks_of(page.read_text())):
        return
    command = [sys.executable, "-m", "tests.pages", str(page)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: no {target}"
        if heading:
            assert heading in headings(file.read_text()), f"{page.name}: no heading {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page: Path) -> None:
    """Of the packages: what stands between backticks and looks like a file of theirs."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    paths = re.findall(r"`((?:hat|hat_kernels|tests|benchmarks|examples|docs)/[\w./*-]*)`", text)
    missing = [path for path in paths if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_names_are_where_contributing_says() -> None:
    rows = re.findall(r"\| `([\w/]+\.py)` \| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(rows) >= 10
    for path, name in rows:
        definition = rf"^\s*(?:def|class) {name}\b|^{name}\b.*="
        assert re.search(definition, (ROOT / path).read_text(), re.MULTILINE), f"no {name} in {path}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


# ---------------------------------------------------------------- what holds the pages to it

PAGE = """# Page

```python
x = 2
print("x is", x)  # prints: x is 2
```

```sh
hat data  # seconds
make run  # a minute
```

```text
  anything
```
"""


def test_a_page_in_blocks(tmp_path: Path) -> None:
    blocks = blocks_of(PAGE)
    assert [(block.kind, block.number) for block in blocks] == [("python", 4), ("sh", 9), ("text", 14)]
    commands = list(blocks[1].commands())
    assert commands == [(["hat", "data"], "seconds"), (["make", "run"], "a minute")]
    assert [is_run(*command) for command in commands] == [True, False]
    (tmp_path / "page.md").write_text(PAGE)
    printed = run(tmp_path / "page.md")
    assert printed.startswith("x is 2\n")
    assert "fashion-mnist" in printed


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```bash\nls\n```\n", "line 1: expected a block of .* got 'bash'"),
        ("```\nls\n```\n", "line 1: expected a block of .* got ''"),
        ("# A\n\n```python\n", "line 3: expected a block with an end, got none"),
        ("# A\n\n    make run\n", "line 3: expected code between ``` marks"),
    ],
)
def test_code_that_would_not_run_is_refused(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocks_of(page)


def test_a_promise_that_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```python\nprint(1)  # prints: 2\n```\n")
    with pytest.raises(ValueError, match=r"page\.md: expected '2' to be printed"):
        run(tmp_path / "page.md")


@pytest.mark.parametrize(
    "words",
    [
        "hat train --no-such-option",
        "hat train --epochs 0",
        "make nothing",
        "python -m no_such_module",
        "python examples/none.py",
        "pip install -e .[nothing]",
        "ls",
    ],
)
def test_commands_that_nobody_could_give(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        check(words.split())
