"""The examples that the README links run, and show what they say."""

import runpy
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = {
    "export.py": ("task 1: ", "as the model's: True", "largest difference 0\n"),
    "forget.py": (
        "largest drift 0 over 2 tasks; no locked parameter",
        "tasks that are left: (0, 2)",
        "is not forgotten",
    ),
    "grow.py": ("units join linear", "largest drift of any logit since the last growth: 0", "full after"),
}
"""What every example prints, among other things."""


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example(name, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    for text in SHOWN[name]:
        assert text in printed


def test_the_readme_links_them():
    readme = (EXAMPLES.parent / "README.md").read_text()
    for name in SHOWN:
        assert f"(examples/{name})" in readme
