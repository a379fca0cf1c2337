"""`DistributedDataParallel` around a model whose parameters come and go with its tasks.

A wrapper averages the gradients of the parameters that could be trained when the wrapper was made. A task that begins
later has a new head, and after the first task parameters along no gate are frozen. Such a wrapper would leave the head
of every process to its own samples, and wait for gradients that never come. So the first forward pass of a task inside
a wrapper makes the wrapper's reducer anew, for the parameters that can be trained now.
"""

from __future__ import annotations

from contextlib import suppress
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hat.network.turns import turn, turns

_ANEW = "it cannot follow: make it anew after begin_task(), DistributedDataParallel(model)"

_seen: WeakKeyDictionary[DistributedDataParallel, int] = WeakKeyDictionary()
"""The number of turns at which the parameters of a wrapper were last compared."""


def follow() -> None:
    """Renew the wrapper whose forward pass runs now, unless it averages the gradients that it should.

    Compiled code calls this when it is compiled, which is at the first forward pass of every task.

    Raises:
        RuntimeError: the wrapper cannot be renewed, and must be made anew.
    """
    wrapper = DistributedDataParallel._active_ddp_module
    if wrapper is not None and _seen.get(wrapper) != turns[0]:
        _renew(wrapper)
        _seen[wrapper] = turns[0]


# What `torch.compiler.assume_constant_result` does; to call it would load the compiler, and Triton, with this library.
follow._dynamo_marked_constant = True  # type: ignore[attr-defined]


def follow_shapes(model: nn.Module) -> None:
    """Renew the wrappers around a model whose parameters have other shapes, before autograd sees these shapes."""
    turn(model)
    for wrapper in list(_seen):
        if any(module is model for module in wrapper.modules()):
            with suppress(RuntimeError):  # the next forward pass raises it
                _renew(wrapper)


def _renew(wrapper: DistributedDataParallel) -> None:
    """Let a wrapper average the gradients of the parameters that can be trained now, and of no other parameter."""
    wrapper._module_parameters = [
        parameter for name, parameter in wrapper.module.named_parameters() if name not in wrapper.parameters_to_ignore
    ]
    parameters, sparse = wrapper._build_params_for_reducer()
    buckets = wrapper.reducer._get_zeros_like_grad_buckets()
    averaged = {id(parameter) for bucket in buckets for parameter in bucket.parameters()}
    elements = sum(bucket.buffer().numel() for bucket in buckets)
    if averaged == {id(p) for p in parameters} and elements == sum(p.numel() for p in parameters):
        return
    _refuse_special(wrapper)
    # The old reducer ends first. It holds nodes of autograd that know the old shapes; a new one would take them over.
    del buckets, wrapper.reducer, wrapper.logger
    wrapper._ddp_init_helper(
        parameters, sparse, wrapper._build_debug_param_to_name_mapping(parameters), wrapper.static_graph
    )
    wrapper._has_rebuilt_buckets = False
    if wrapper.static_graph:
        wrapper._static_graph_delay_allreduce_enqueued = False
        wrapper.reducer._set_static_graph()
        assert wrapper.logger is not None
        wrapper.logger._set_static_graph()
    for hook, state in wrapper._comm_hooks:
        dist._register_comm_hook(wrapper.reducer, state, hook)
    wrapper.reducer.prepare_for_forward()


def _refuse_special(wrapper: DistributedDataParallel) -> None:
    """Refuse a wrapper that has tied itself to its parameters in other ways than by its reducer."""
    for option, is_set in (
        ("mixed_precision", wrapper.mixed_precision is not None),
        ("delay_all_reduce_named_params", bool(wrapper._delay_all_reduce_params)),
        ("join", wrapper._join_config.enable),
        ("a communication hook with a state", any(not _is_stateless(state) for _, state in wrapper._comm_hooks)),
        ("a built-in communication hook", wrapper._get_ddp_logging_data().get("comm_hook") and not wrapper._comm_hooks),
        ("an optimizer in the backward pass", any(hasattr(p, "_in_backward_optimizers") for p in wrapper.parameters())),
    ):
        if is_set:
            raise RuntimeError(f"DistributedDataParallel: other parameters are trained now, and with {option} {_ANEW}")


def _is_stateless(state: object) -> bool:
    """Whether the state of a communication hook holds nothing that depends on the parameters."""
    return state is None or isinstance(state, dist.ProcessGroup)
