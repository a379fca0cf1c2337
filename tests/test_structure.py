"""How the house is built: which module imports which, read from the source of both packages."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hat

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    {"tracing", "data"},
    {"units"},
    {"layers"},
    {"network"},
    {"conversion"},
    {"models"},
    {"resizing"},
    {"life"},
    {"optim"},
    {"verification"},
    {"reports"},
    {"exporting"},
    {"steps"},
    {"training"},
    {"plots"},
    {"cli"},
)
"""From the ground up. A room imports only from rooms before it; rooms of one set do not import each other."""
GROUND = {"hat.arguments", "hat.checkpoint", "hat.metrics", "hat.ownership", "hat.text", "hat.warnings"}
"""Files directly in `hat/` that every room may import: they import no room."""
MOST_FILES = 8

DRAWS = {
    "hat.tracing.checks: _run": "the network draws, as in dropout: it gets the same numbers as its graph",
    "hat.tracing.generators: _of": "how to read and set the generators of Python and NumPy",
    "hat.tracing.watching: watched": "the network draws: it gets the same numbers as its graph",
    "hat.tracing.untouched: untouched": "a trial leaves the generators as they were",
    "hat.exporting.api: export": "an export leaves the generators as they were",
    "hat.conversion.tables: SharedParameter.reset_parameters": "first weights",
    "hat.units.gate: Gate.__init__": "a first embedding",
    "hat.units.gate: Gate.draw": "the first embedding of a task",
    "hat.units.redrawn: drawn": "first weights of new and of forgotten units",
    "hat.models.resnet: _normed": "first weights",
    "hat.models.vit: _linear": "first weights",
    "hat.models.vit: _drawn": "first weights",
    "hat.layers.stochastic_depth: StochasticDepth.forward": "stochastic depth",
    "hat.data.": "order of images and tasks, from the user's seed",
    "hat.training.": "order of batches and the start of a run, from the user's seed",
    "hat.cli.spec: ": "the start of a run, from the user's seed",
}
"""Where `hat` draws numbers, or sets or keeps a generator: `module: function`, or the start of it, and the reason.

No check whether something is right may stand here: what it finds would depend on luck. `hat.tracing.different` makes
values for trials.
"""
_RANDOM = {
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
    *("multinomial", "poisson", "manual_seed", "seed", "fork_rng", "Generator", "generator", "shuffled", "default_rng"),
    *("set_rng_state", "setstate", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_"),
    *("cauchy_", "log_normal_", "trunc_normal_", "orthogonal_", "sparse_"),
    *("kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"),
}
"""The names of functions that draw or set a generator, in torch, Python, NumPy and `hat.data.seeding`."""


@functools.cache
def modules() -> dict[str, Path]:
    """The modules of both packages by their dotted names."""
    paths = [path for package in ("hat", "hat_kernels") for path in sorted((ROOT / package).rglob("*.py"))]
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


@functools.cache
def imports() -> dict[str, set[str]]:
    """What every module imports, wherever the import stands: inside a function and for a type checker too."""
    return {name: imported(ast.walk(ast.parse(path.read_text()))) - {name} for name, path in modules().items()}


@functools.cache
def imports_at_once() -> dict[str, set[str]]:
    """What every module imports when it is imported itself: outside of functions, branches and classes."""
    return {name: imported(ast.parse(path.read_text()).body) - {name} for name, path in modules().items()}


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """The modules that these statements import; `from package import module` imports that module."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the packages import by full names"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules() else str(node.module) for name in inside}
    return names


def room(name: str) -> str | None:
    """The room of a module of `hat`; None for a file directly in `hat/`."""
    parts = name.split(".")
    inside = len(parts) > 2 or (len(parts) == 2 and modules()[name].name == "__init__.py")
    return parts[1] if inside else None


def level(name: str) -> int:
    """On which floor a module of `hat` stands; the ground has -1, the package itself and the command line the top."""
    if name in GROUND:
        return -1
    return next((index for index, rooms in enumerate(ROOMS) if room(name) in rooms), len(ROOMS))


def of_hat() -> list[str]:
    return [name for name in modules() if name.split(".")[0] == "hat"]


def runs_kernels() -> set[str]:
    """The modules of `hat_kernels` that import Triton, and all that import such a module at once."""
    of_kernels = [name for name in modules() if name.split(".")[0] == "hat_kernels"]
    kernels = {n for n in of_kernels if any(name.split(".")[0] == "triton" for name in imports()[n])}
    while more := {n for n in of_kernels if imports_at_once()[n] & kernels} - kernels:
        kernels |= more
    return kernels


def test_every_room_has_its_place_in_the_order():
    rooms = [room for rooms in ROOMS for room in rooms]
    assert sorted(rooms) == sorted({room(name) for name in of_hat()} - {None})


def test_no_circle():
    graph = {name: names & set(modules()) for name, names in imports().items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_import_upwards():
    upwards = [
        f"{name} imports {other}"
        for name in of_hat()
        for other in sorted(imports()[name] & set(of_hat()))
        if room(name) != room(other) and level(other) >= level(name)
    ]
    assert not upwards


def test_hat_imports_neither_triton_nor_a_kernel_file():
    kernels = runs_kernels()
    assert {"hat_kernels.gated_activation.triton", "hat_kernels.linear_update.triton"} <= kernels
    forbidden = [
        f"{name} imports {other}"
        for name in of_hat()
        for other in sorted(imports()[name])
        if other in kernels or other.split(".")[0] == "triton"
    ]
    assert not forbidden


def test_no_import_by_a_string():
    """The tests above would not see it. `optional` imports packages that may not be installed, none of ours."""
    calls = {
        f"{name}: {ast.unparse(node)}"
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert calls == {"hat.data.optional: importlib.import_module(module)"}


def test_kernels_know_nothing_of_hat_and_references_nothing_of_kernels():
    for name, names in imports().items():
        if name.split(".")[0] != "hat_kernels":
            continue
        assert not [other for other in names if other.split(".")[0] == "hat"], name
        if name.endswith(".reference"):
            assert not names & runs_kernels(), name
        if name in runs_kernels():
            assert not [other for other in names if other.endswith(".reference")], name


def test_few_files_lie_directly_in_hat_and_none_hides_a_function():
    files = [path.stem for path in (ROOT / "hat").glob("*.py")]
    assert len(files) <= MOST_FILES
    functions = {
        name for name in hat.__all__ if callable(getattr(hat, name)) and not isinstance(getattr(hat, name), type)
    }
    assert not functions & set(files)


def test_no_two_classes_have_one_name():
    classes = Counter(
        node.name
        for path in modules().values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in classes.items() if count > 1]


def calls_by_function(tree: ast.AST, path: tuple[str, ...] = ()) -> Iterable[tuple[str, str]]:
    """(function that calls, called function) of every call; the path of classes and functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and len(path) < 2:
            yield from calls_by_function(node, (*path, node.name))
            continue
        if isinstance(node, ast.Call):
            yield ".".join(path), ast.unparse(node.func)
        yield from calls_by_function(node, path)


def test_no_check_draws_a_random_number():
    draws = {
        f"{name}: {function}"
        for name in of_hat()
        for function, called in calls_by_function(ast.parse(modules()[name].read_text()))
        if called.rpartition(".")[2] in _RANDOM or called.startswith(("random.", "np.random.", "numpy.random."))
    }
    assert not {place for place in draws if not place.startswith(tuple(DRAWS))}
    assert not {place for place in DRAWS if not any(found.startswith(place) for found in draws)}
