"""Pictures of a run: accuracy of every task over time, units in use, and units that tasks share.

Every function takes plain numbers and returns a matplotlib Figure with its own canvas. No function uses global state of
matplotlib, so pictures can be drawn without a display and in any thread. matplotlib is imported when the first picture
is drawn.
"""

from hat.plots.canvas import save
from hat.plots.heat_maps import accuracy_matrix, overlap, overlap_matrix
from hat.plots.lines import accuracy_over_time, capacity, compression
from hat.plots.units import channels, units

__all__ = [
    "accuracy_matrix",
    "accuracy_over_time",
    "capacity",
    "channels",
    "compression",
    "overlap",
    "overlap_matrix",
    "save",
    "units",
]
