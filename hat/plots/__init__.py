"""Pictures of a run: what was learned, what was kept, how full the network is and how much tasks share.

Every function takes plain numbers and returns a matplotlib Figure with a canvas of its own: no global state,
so it draws without a display and in any thread. matplotlib is imported when the first picture is drawn.
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
