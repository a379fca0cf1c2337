"""Explanations for the readers of the tables."""

from benchmarks.markdown import NONE

EPOCH = (
    "`plain` is the same network without HAT. `textbook` computes the paper's equations one eager operation at a"
    " time, as published code does. `flushed` is the textbook in flush mode: the CPU takes subnormal numbers as 0."
    " `hat train` sets flush mode, and all variants except `textbook` run in flush mode. `in matmul` is ours with"
    " `hat.optim.SGD(..., in_backward=True)`, which does not clip gradients. `compiled` is ours under"
    ' `hat_kernels.backend("compiled")`. `locked` is the share of units of every gate that a finished task uses. If'
    " `ours / plain` is below 1, a step with HAT takes less time than a step without HAT. Ratios are medians over"
    " rounds (20th to 80th percentile). Times in ms are medians over rounds, averaged over the epoch. `floor` is the"
    f" least time that the matmuls or the memory traffic of a HAT step take at the measured rates. {NONE}: not"
    " measured. To save time, some variants run in some cells only."
)

PHASES = (
    "The same steps in ms: forward (including the loss) / backward (including the removal of old gradients) / update"
    " (including compensation, clipping, locks and clamping). With the update in the matmul, weights move in the"
    " backward pass. `floor` is the floor of each phase."
)

SCALE = (
    "MLP, batch 64, in the first task: median ms of a step. Every 3 steps start from the same state. The last column"
    " is the time of the step at s = 400 divided by the time of the step at s = 1 in the same round: median (20th to"
    " 80th percentile)."
)

MEMORY = (
    "Each line is a fresh process. `kept`: tensors that are kept between steps (weights, masks, locks, states of the"
    " optimizer, memory kept for gradients; the textbook has room for ten tasks). `of a step`: the most bytes of other"
    " tensors that are alive at once in a step, gradients included. Both numbers are counted exactly, in bytes. `peak"
    " in pages`: how much the resident memory of the process grows during four steps at most, from before the network"
    " was built (Linux's VmHWM; glibc is set to give back blocks of 64 KiB). The process runs the same steps once"
    " before, so that the memory of libraries and compilers is not counted. The floor keeps the weights, and in a step"
    " the input of every layer."
)

TASKS = (
    "MLP, batch 64. All finished tasks use the same 50 % of the units of both axes, so that the lines differ only in"
    " the number of tasks. Times in ms are medians over the annealed epoch; `kept` and `of a step` are as above. A"
    " task adds its masks and its head to the tensors that are kept."
)

MIXED = (
    "The time in ms to answer for a batch. The network has 32 finished tasks, and each uses 40 % of the units of"
    " every gate. `one task`: all samples belong to one task. `mixed`: every sample has its own task id, in one call"
    " (`model(x, task=ids)`). `task by task`: one call per task, on the samples of the task."
)

WIDTH = "MLP with two hidden layers of the given width, batch 64: mean step over an annealed epoch."
