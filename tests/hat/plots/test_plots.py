"""Pictures show the given numbers in the right places, and can be read with 1 to 50 tasks."""

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat import plots

matplotlib = pytest.importorskip("matplotlib")
NAN = math.nan
COUNTS = [1, 2, 5, 10, 12, 20, 21, 50]


def names_of(count, stem="task"):
    return [f"{stem}-{index}" for index in range(count)]


def triangle(tasks):
    matrix = torch.rand(tasks, tasks, generator=torch.Generator().manual_seed(tasks), dtype=torch.float64)
    return matrix.masked_fill(torch.ones(tasks, tasks, dtype=torch.bool).triu(1), NAN)


def labels(ticks):
    return [tick.get_text() for tick in ticks]


# ---------------------------------------------------------------- heat maps


@pytest.mark.parametrize("tasks", COUNTS)
def test_accuracy_matrix_shows_each_value_in_its_place_and_leaves_later_tasks_blank(tasks):
    matrix = triangle(tasks)
    axes = plots.accuracy_matrix(matrix, names_of(tasks)).axes[0]
    shown = axes.images[0].get_array()
    later = torch.ones(tasks, tasks, dtype=torch.bool).triu(1).numpy()
    assert shown.shape == (tasks, tasks)
    assert (shown.mask == later).all()
    assert shown[~later].data == pytest.approx(100 * matrix.numpy()[~later])
    assert axes.images[0].get_clim() == (0, 100)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    expected = {(k, t): f"{100 * matrix[t, k]:.1f}" for t in range(tasks) for k in range(t + 1)}
    assert written == (expected if tasks <= 12 else {})


@pytest.mark.parametrize("tasks", COUNTS)
def test_heat_map_ticks_are_thinned_and_name_the_right_task(tasks):
    names = names_of(tasks)
    axes = plots.overlap(torch.rand(tasks, tasks), names).axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        places = [int(place) for place in axis.get_ticklocs()]
        assert labels(axis.get_ticklabels()) == [names[place] for place in places]
        assert places[0] == 0
        assert len(places) == tasks if tasks <= 25 else 12 < len(places) <= 25


def test_overlap_rows_are_drawn_as_rows_and_nan_stays_blank():
    axes = plots.overlap([[1.0, 0.25], [NAN, 0.5]], ["a", "b"]).axes[0]
    assert axes.images[0].get_array().tolist() == [[100.0, 25.0], [None, 50.0]]
    assert {t.get_position(): t.get_text() for t in axes.texts} == {(0, 0): "100.0", (1, 0): "25.0", (1, 1): "50.0"}


def test_cell_text_contrasts_with_its_cell():
    shares = torch.linspace(0, 1, 144).reshape(12, 12)
    axes = plots.overlap(shares, names_of(12)).axes[0]
    image = axes.images[0]

    def luminance(colour):
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    assert len(axes.texts) == 144
    for text in axes.texts:
        column, row = text.get_position()
        cell = luminance(image.cmap(image.norm(100 * float(shares[row, column]))))
        ink = luminance(matplotlib.colors.to_rgb(text.get_color()))
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) >= 4.3  # the worst colour allows 4.58


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("tasks", COUNTS)
def test_accuracy_over_time_has_one_line_per_task_from_the_step_at_which_it_was_learned(tasks):
    matrix = triangle(tasks)
    figure = plots.accuracy_over_time(matrix, names_of(tasks))
    axes = figure.axes[0]
    assert len(axes.lines) == tasks
    for task, line in enumerate(axes.lines):
        steps, shares = line.get_data()
        assert list(steps) == list(range(1, tasks + 1))
        assert shares == pytest.approx(100 * matrix[:, task].numpy(), nan_ok=True)
        assert tasks - 1 in line.get_markevery()  # the line of the newest task is a single point
        assert line.get_label() == f"task-{task}"
    low, high = axes.get_ylim()
    assert 0 <= low <= 100 * matrix[~matrix.isnan()].min()
    assert high == 100


def test_references_are_columns_of_marks_behind_the_last_task():
    references = {"alone": [0.9, 0.8], "sequential": [0.5, 0.8]}
    figure = plots.accuracy_over_time([[0.9, NAN], [0.9, 0.7]], ["a", "b"], references=references)
    axes = figure.axes[0]
    lines, marks = axes.lines[:2], axes.lines[2:6]
    assert [mark.get_ydata()[0] for mark in marks] == [90, 80, 50, 80]
    assert [mark.get_color() for mark in marks] == [line.get_color() for line in lines] * 2
    places = [mark.get_xdata()[0] for mark in marks]
    assert places == sorted(set(places))  # marks with equal values lie side by side
    assert places[0] > 2.5
    assert places[-1] < axes.get_xlim()[1]
    ticks = [label.replace("\n", " ") for label in labels(axes.get_xticklabels())]
    assert ticks == ["1", "2", "each alone", "one after another"]
    assert labels(axes.texts) == ["without HAT"]
    assert axes.get_ylim()[0] <= 50


def test_of_equal_lines_the_lower_one_is_wider():
    matrix = [[0.9, NAN, NAN, NAN], [0.9, 0.9, NAN, NAN], [0.9, 0.9, 0.7, NAN], [0.9, 0.9, 0.7, 0.7]]
    lines = plots.accuracy_over_time(matrix, names_of(4)).axes[0].lines
    widths = [line.get_linewidth() for line in lines]
    assert widths[0] > widths[1] == widths[3]
    assert widths[2] > widths[3]  # the newest task has one point, and this point lies on the line of task 2
    crossing = plots.capacity([[0.2, 0.4], [0.3, 0.3], [0.4, 0.2]], ["a", "b"]).axes[0].lines
    assert crossing[0].get_linewidth() == crossing[1].get_linewidth()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("whole", [False, True])
def test_capacity_has_one_line_per_layer_and_one_for_the_network(count, whole):
    used, total = torch.rand(7, count), torch.rand(7)
    figure = plots.capacity(used, names_of(count, "layer"), total=total if whole else None)
    lines = figure.axes[0].lines
    assert len(lines) == count + whole
    for layer in range(count):
        assert lines[layer].get_ydata() == pytest.approx(100 * used[:, layer].numpy())
    if whole:
        assert lines[-1].get_ydata() == pytest.approx(100 * total.numpy())
        assert "whole network" in labels(figure.axes[0].get_legend().get_texts())


@pytest.mark.parametrize("count", COUNTS)
def test_lines_can_be_told_apart(count):
    figure = plots.capacity(torch.rand(3, count), names_of(count, "layer"))
    axes = figure.axes[0]
    colours = [matplotlib.colors.to_hex(line.get_color()) for line in axes.lines]
    if count <= 20:  # ten colours, each with a solid and a dashed line
        assert labels(axes.get_legend().get_texts()) == names_of(count, "layer")
        assert len(set(zip(colours, [line.get_linestyle() for line in axes.lines], strict=True))) == count
        assert len({line.get_marker() for line in axes.lines}) == len(set(colours)) == min(count, 10)
    else:  # a colour scale; a name has the same colour on the scale as its line
        assert len(set(colours)) == count
        assert axes.get_legend() is None
        scale = figure.axes[1]
        places = [int(place) for place in scale.get_yticks()]
        assert labels(scale.get_yticklabels()) == [f"layer-{place}" for place in places]
        colours = scale._colorbar.mappable.to_rgba(places)
        assert all(
            tuple(colour) == axes.lines[place].get_color() for colour, place in zip(colours, places, strict=True)
        )


@pytest.mark.parametrize("tasks", COUNTS)
def test_time_axis_counts_in_whole_tasks(tasks):
    axes = plots.accuracy_over_time(triangle(tasks), names_of(tasks)).axes[0]
    low, high = axes.get_xlim()
    shown = [place for place in axes.get_xticks() if low <= place <= high]
    assert shown
    assert all(place == int(place) and 1 <= place <= tasks for place in shown)


# ---------------------------------------------------------------- compression


def test_compression_draws_accuracy_and_kept_weights_and_names_the_share_kept():
    figure = plots.compression([[0.5, 0.75], [0.9]], [[1.0, 0.25], [0.5]], ["a", "b"], without=[[0.6, 0.7, 0.8], [0.9]])
    left, right = figure.axes
    drawn = [[list(values) for values in line.get_data()] for line in left.lines if len(line.get_xdata())]
    assert drawn == [[[1, 2, 3], [60, 70, 80]], [[1, 2], [50, 75]], [[1], [90]], [[1], [90]]]
    assert [line.get_linestyle() for line in left.lines] == ["--", "-", "--", "-", "--"]
    assert [list(line.get_ydata()) for line in right.lines] == [[100, 25], [50]]
    assert labels(right.get_legend().get_texts()) == ["a: 25.0 %", "b: 50.0 %"]
    assert labels(left.get_legend().get_texts()) == ["without HAT"]
    assert plots.compression([[0.5]], [[1.0]], ["a"]).axes[0].get_legend() is None


def test_compression_shows_the_final_numbers_of_the_runs():
    final = [{"accuracy": 0.75, "kept": 0.125, "without": 0.7}]
    left, right = plots.compression([[0.5]], [[0.25]], ["a"], without=[[0.6]], final=final).axes
    assert labels(left.get_legend().get_texts()) == ["a: 75.00 % (70.00 %)", "without HAT"]
    assert labels(right.get_legend().get_texts()) == ["a: 12.5 %"]


# ---------------------------------------------------------------- units

MASKS = [[1, 1, 0, 0], [0, 1, 1, 0]]


def stacks(axes):
    """Heights in percent by label."""
    handles, names = axes.get_legend_handles_labels()
    return {name: [bar.get_height() for bar in handle] for handle, name in zip(handles, names, strict=True)}


def test_units_are_new_or_shared_or_of_other_tasks_or_free():
    figure = plots.units([MASKS, [[1], [0]]], ["one", "two"], ["a", "b"], reserved=[[0, 0, 0, 0], [1]])
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("one (4)", "two (1)")
    assert stacks(first) == {
        "shared with earlier tasks": [0, 25],
        "new": [50, 25],
        "of earlier tasks only": [0, 25],
        "free": [50, 25],
    }
    assert stacks(second)["shared with earlier tasks"] == [100, 0]
    assert stacks(second)["of earlier tasks only"] == [0, 100]


@pytest.mark.parametrize(("layers", "shown"), [(1, 1), (5, 5), (24, 24), (60, 20)])
def test_units_of_many_layers_are_shown_in_part_and_the_title_says_so(layers, shown):
    figure = plots.units([MASKS] * layers, names_of(layers, "layer"), ["a", "b"])
    visible = [axes for axes in figure.axes if axes.axison]
    assert len(visible) == shown
    assert (f"{shown} of {layers} layers" in figure.get_suptitle()) == (shown < layers)
    assert visible[-1].get_xlabel() == "task, in the order learned"
    assert visible[0].get_ylabel() == "units (%)"


def test_channels_are_coloured_by_how_many_tasks_use_them():
    figure = plots.channels(MASKS, "conv", ["a", "b"], reserved=[0, 0, 0, 1])
    (axes,) = figure.axes
    codes = axes.collections[0].get_array()
    assert codes.tolist() == [[2, 3, 1, 1], [1, 3, 2, 1]]  # 1: of other tasks only, 2: of this task alone, 3: of both
    assert plots.channels(MASKS, "conv", ["a", "b"]).axes[0].collections[0].get_array()[:, 3].tolist() == [0, 0]
    assert axes.get_ylim() == (1.5, -0.5)
    assert labels(axes.get_yticklabels()) == ["a", "b"]
    kinds = [text.get_text() for text in figure.legends[0].get_texts()]
    assert kinds == ["free", "of other tasks only", "of this task alone", "of 2 tasks"]


@pytest.mark.parametrize(("tasks", "count"), [(1, 64), (4, 200), (30, 300)])
def test_channels_lie_in_strips_inside_the_picture(tasks, count):
    mask = torch.rand(tasks, count, generator=torch.Generator().manual_seed(0)) < 0.2
    figure = plots.channels(mask, "conv", names_of(tasks, "a-very-long-name-of-a-data-set"))
    strips = [axes.collections[0].get_array() for axes in figure.axes]
    assert [strip.shape[1] for strip in strips] == [min(128, count - first) for first in range(0, count, 128)]
    assert (torch.cat([torch.from_numpy(strip.data) for strip in strips], 1) > 1).tolist() == mask.tolist()
    assert all(len(axes.get_yticks()) <= tasks for axes in figure.axes)
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height


# ---------------------------------------------------------------- all pictures over tasks


def draw_all(tasks, names):
    yield plots.accuracy_matrix(triangle(tasks), names)
    yield plots.accuracy_over_time(triangle(tasks), names)
    references = {"alone": [1.0] * tasks, "joint": [0.5] * tasks, "sequential": [0.0] * tasks}
    yield plots.accuracy_over_time(triangle(tasks), names, references=references)
    yield plots.capacity(torch.rand(tasks, tasks), names, total=torch.rand(tasks))
    yield plots.overlap(torch.rand(tasks, tasks), names)


@pytest.mark.parametrize("tasks", [1, 3, 50])
def test_everything_is_titled_labelled_and_inside_the_picture(tasks):
    for figure in draw_all(tasks, names_of(tasks, "a-very-long-name-of-a-data-set")):
        axes = figure.axes[0]
        assert axes.get_title()
        assert "task" in axes.get_xlabel()
        assert axes.get_ylabel()
        figure.canvas.draw()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_every_picture_names_the_unit_percent():
    for figure in draw_all(3, names_of(3)):
        assert any("%" in axes.get_ylabel() for axes in figure.axes)


def test_long_names_keep_both_ends_and_odd_names_draw():
    names = ["split-tiny-image-net-from-disk-07", "$\\alpha$ costs $5", "two\nlines", "_hidden"]
    for figure in draw_all(4, names):
        figure.canvas.draw()
    shown = labels(figure.axes[0].get_xticklabels())
    assert shown == ["split-tiny…m-disk-07", r"\$\alpha\$ costs \$5", "two lines", " _hidden"]


def test_a_legend_hides_no_name():
    names = ["_orig_mod.0", "", "plain"]
    figure = plots.capacity([[0.1, 0.2, 0.3]], names)
    assert [label.strip() for label in labels(figure.axes[0].get_legend().get_texts())] == names


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.accuracy_matrix([[0.5, 0.5]], ["a"]), r"^accuracy: expected a square .* got \(1, 2\)$"),
        (lambda: plots.accuracy_matrix([[0.5]], ["a", "b"]), "^names: expected 1, got 2$"),
        (lambda: plots.accuracy_over_time([[50.0]], ["a"]), "^accuracy: expected values from 0 to 1, got 50$"),
        (lambda: plots.accuracy_over_time([[0.5]], []), "^names: expected 1, got 0$"),
        (lambda: plots.capacity([0.5], ["a"]), r"^used: expected shape \(1, 1\), got \(1,\)$"),
        (lambda: plots.capacity([], ["a"]), r"^used: expected shape \(1, 1\), got \(0,\)$"),
        (lambda: plots.capacity([[0.5, 0.5]], ["a"]), r"^used: expected shape \(1, 1\), got \(1, 2\)$"),
        (lambda: plots.capacity([[NAN]], ["a"]), "^used: expected values from 0 to 1, got nan$"),
        (lambda: plots.capacity([[0.5]], ["a"], total=[0.5, 0.5]), r"^total: expected shape \(1,\), got \(2,\)$"),
        (lambda: plots.capacity([[]], []), "^layers: expected at least one, got none$"),
        (lambda: plots.overlap([[0.5]], ["a", "b"]), r"^masks_overlap: expected shape \(2, 2\), got \(1, 1\)$"),
        (lambda: plots.overlap([[1.5]], ["a"]), "^masks_overlap: expected values from 0 to 1, got 1.5$"),
        (lambda: plots.overlap([], []), "^names: expected at least one, got none$"),
        (lambda: plots.units([MASKS], ["a"], ["x"]), r"^masks: expected shape \(1, 4\), got \(2, 4\)$"),
        (lambda: plots.units([MASKS], ["a"], ["x", "y"], reserved=[]), "^reserved: expected 1, got 0$"),
        (lambda: plots.units([], [], ["x"]), "^layers: expected at least one, got none$"),
        (lambda: plots.channels([[2.0]], "a", ["x"]), "^masks: expected values from 0 to 1, got 2$"),
        (lambda: plots.channels(MASKS, "a", []), "^names: expected at least one, got none$"),
        (lambda: plots.compression([[0.5]], [], ["a"]), "^kept: expected 1 runs, got 0$"),
        (lambda: plots.compression([[0.5]], [[0.5]], ["a"], final=[]), "^final: expected 1 runs, got 0$"),
        (lambda: plots.accuracy_over_time([[0.5]], ["a"], references={"joint": []}), r"^joint: expected shape \(1,\)"),
        (lambda: plots.compression([[5]], [[0.5]], ["a"]), "^accuracy: expected values from 0 to 1, got 5$"),
    ],
)
def test_bad_input(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_missing_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'hat-kernels\[plot\]'"):
        plots.overlap([[1.0]], ["a"])


def test_matplotlib_is_imported_only_for_drawing_and_pyplot_never():
    script = (
        "import sys, hat.plots as p, hat.metrics, hat.checkpoint\n"
        "assert 'matplotlib' not in sys.modules\n"
        "p.overlap([[1.0]], ['a']).canvas.draw()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(plots.__file__).parents[2]), "DISPLAY": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- overlap of masks


def test_overlap_matrix_by_hand():
    first = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    second = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    shares = plots.overlap_matrix([first, second])
    assert shares.dtype == torch.float64
    assert shares.tolist() == [[1.0, 0.5, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_overlap_matrix_takes_bool_and_soft_masks():
    soft = [torch.tensor([[0.999, 1e-9], [0.501, 0.7]], requires_grad=True)]
    hard = [torch.tensor([[True, False], [True, True]])]
    assert plots.overlap_matrix(soft).tolist() == plots.overlap_matrix(hard).tolist() == [[1.0, 1.0], [0.5, 1.0]]


@settings(max_examples=40, deadline=None)
@given(tasks=st.integers(1, 5), widths=st.lists(st.integers(0, 9), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_overlap_matrix_counts_units(tasks, widths, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = [(torch.rand(tasks, width, generator=generator) < 0.4).float() for width in widths]
    units = [
        {(g, n) for g, mask in enumerate(masks) for n in mask[t].nonzero().flatten().tolist()} for t in range(tasks)
    ]
    expected = [[len(row & column) / max(1, len(row)) for column in units] for row in units]
    assert plots.overlap_matrix(masks).tolist() == expected


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], r"^masks: expected tensors \[T, N\], got \[\]$"),
        ([torch.ones(3)], r"^masks: expected tensors \[T, N\], got \[\(3,\)\]$"),
        ([torch.ones(2, 3), torch.ones(1, 3)], r"^masks\[1\]: expected shape \(2, 3\), got \(1, 3\)$"),
        ([torch.full((1, 1), 3.0)], r"^masks\[0\]: expected values from 0 to 1, got 3$"),
    ],
)
def test_bad_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        plots.overlap_matrix(masks)


# ---------------------------------------------------------------- saving


def test_save_writes_a_png_of_150_dots_an_inch(tmp_path):
    figure = plots.overlap([[1.0]], ["a"])
    plots.save(figure, tmp_path / "picture.PNG")
    content = (tmp_path / "picture.PNG").read_bytes()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (width, height) == tuple(int(150 * inches) for inches in figure.get_size_inches())
    assert os.listdir(tmp_path) == ["picture.PNG"]


def test_failed_save_keeps_the_previous_picture(tmp_path, monkeypatch):
    figure = plots.overlap([[1.0]], ["a"])
    plots.save(figure, tmp_path / "picture.png")
    before = (tmp_path / "picture.png").read_bytes()

    def full_disk(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        plots.save(figure, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["picture.png"]


def test_save_refuses_other_formats(tmp_path):
    with pytest.raises(ValueError, match=r"^path: expected a name ending in \.png, got '.*picture\.pdf'$"):
        plots.save(plots.overlap([[1.0]], ["a"]), tmp_path / "picture.pdf")


def test_threads_draw_the_same_picture(tmp_path):
    def draw(place):
        plots.save(plots.accuracy_matrix(triangle(3), names_of(3)), tmp_path / f"{place}.png")

    threads = [threading.Thread(target=draw, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    draw(3)
    assert len({(tmp_path / f"{place}.png").read_bytes() for place in range(4)}) == 1
