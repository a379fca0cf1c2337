"""What a reader of the tables needs to know about them."""

from benchmarks.markdown import NONE

EPOCH = (
    "`plain` is the same network without HAT; `textbook` transcribes the paper's equations one eager operation at a"
    " time, as the field's code does; `flushed` is the textbook when its user sets flush mode. All others than"
    " `textbook` run in flush mode, which `hat train` sets. `in matmul` is ours with"
    " `hat.optim.SGD(..., in_backward=True)`, which does not clip; `compiled` is ours under"
    ' `hat_kernels.backend("compiled")`. `locked` is the share of units of every gate that a finished task uses.'
    " `ours / plain` is below 1 where HAT costs less than no HAT. Ratios are medians over rounds (20th to 80th"
    " percentile); ms are the mean over the epoch of the medians over rounds. `floor` is what the matmuls or the memory"
    f" traffic of a HAT step need at the least at the measured rates. {NONE}: not measured; not every variant runs in"
    " every cell, to save time."
)

PHASES = (
    "ms of the same steps: forward (with the loss) / backward (with dropping the old gradients) / update (with"
    " compensation, clipping, locks and clamping). With the update in the matmul, weights move in the backward pass."
    " `floor` is that of every phase by itself."
)

SCALE = (
    "MLP, batch 64, a first task; median ms of a step, 3 steps at a time from the same state. The last column is"
    " the ratio of the step at s = 400 to the step at s = 1 in the same round: median (20th to 80th percentile)."
)

MEMORY = (
    "Each line is a fresh process. `kept`: tensors that outlive a step (weights, masks, locks, states of the optimizer,"
    " memory kept for gradients; the textbook has room for ten tasks). `of a step`: the most bytes of tensors alive at"
    " once beside them, gradients included. Both are counted, exact to the byte. `peak in pages`: the most resident"
    " memory of the process during four steps, beyond what it had before the network was built; the same ran there"
    " before, so that libraries and compilers have theirs (Linux's VmHWM; glibc told to give back blocks of 64 KiB)."
    " The floor keeps the weights, and in a step the input of every layer."
)

TASKS = (
    "MLP, batch 64, 50 % of both axes used, by all finished tasks alike: only their number differs. ms are medians over"
    " the annealed epoch; `kept` and `of a step` as above. A task adds its masks and its head to what is kept."
)

MIXED = (
    "ms to answer for a batch behind 32 finished tasks, each with 40 % of the units of every gate: all samples of one"
    " task, a task a sample (`model(x, task=ids)`), and every task by itself on its samples."
)

WIDTH = "MLP with two hidden layers of this width, batch 64; mean step over an annealed epoch."
