"""A model in shards (FSDP): each process keeps a part of every parameter, its gradient, moments and average.

A configuration of ``accelerate launch`` asks for it. Parameters are `DTensor`s then. Whatever comes in or goes out,
such as a checkpoint, passes `like` and `whole`, which leave plain tensors as they are: the loop has one path. The
first player is sharded. Others are small, and may be frozen and freed within a step, which FSDP cannot follow: every
process keeps a copy (DDP).
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def asked_for(accelerator: Accelerator) -> bool:
    """Whether the processes were launched with an FSDP configuration."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and accelerator.use_distributed


def shard(accelerator: Accelerator, module: nn.Module) -> None:
    """Leave of every parameter the part of this process; how is told by the configuration.

    Raises:
        ValueError: the module trains parameters of models outside it, or the configuration asks for FSDP 1.
    """
    from accelerate.utils import fsdp2_prepare_model  # since accelerate 1.6; DDP does with earlier ones

    if getattr(module, "held", ()):
        raise ValueError(
            "FSDP shards a model that is trained whole, an adapter trains little of one: use DDP, such as "
            "--config_file train_lora/configs/accelerate/ddp.yaml"
        )
    state: Any = accelerator.state
    if accelerator.distributed_type == DistributedType.MULTI_CPU:  # accelerate looks for FSDP on GPUs alone
        state.fsdp_plugin, state.distributed_type = FullyShardedDataParallelPlugin(), DistributedType.FSDP
    if not accelerator.is_fsdp2:
        raise ValueError("FSDP 1 is not supported: set fsdp_version: 2 in the configuration of accelerate")
    state.fsdp_plugin.cpu_ram_efficient_loading = False  # it cannot do models with buffers; checkpoints are ours
    _lengthen(module)
    fsdp2_prepare_model(accelerator, module)


def copied(module: nn.Module) -> nn.Module:
    """A player of which every process keeps a copy; their gradients meet."""
    return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


@contextlib.contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """Let gradients add up in each process for a while, before they meet those of the others."""
    if hasattr(module, "set_requires_gradient_sync"):  # FSDP
        module.set_requires_gradient_sync(False)  # type: ignore[operator] # a method of FSDPModule
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)  # type: ignore[operator] # as above
    else:
        with module.no_sync() if hasattr(module, "no_sync") else contextlib.nullcontext():  # type: ignore[operator] # of DDP
            yield


def whole(value: Tensor) -> Tensor:
    """All of a tensor. For one in shards all processes have to ask, and it comes to the CPU."""
    full: Tensor = value.full_tensor().cpu() if hasattr(value, "full_tensor") else value  # a DTensor
    return full


def like(target: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, which all processes have, in the shards of ``target`` if that is in shards."""
    if not hasattr(target, "full_tensor"):
        return value.reshape(target.shape) if value.numel() == 1 else value  # see `_lengthen`
    from torch.distributed.tensor import distribute_tensor  # since torch 2.5; the rest does with earlier ones

    shards: Any = target
    return distribute_tensor(
        value.reshape(target.shape).to(target.device), shards.device_mesh, shards.placements, src_data_rank=None
    )


@contextlib.contextmanager
def in_one_piece(module: nn.Module, blank: nn.Module | None) -> Iterator[nn.Module]:
    """The module itself, or ``blank``, a copy from before it was sharded, with all its weights of now."""
    if blank is None:
        yield module
        return
    blank.load_state_dict({name: whole(value) for name, value in module.state_dict().items()})
    blank.to(next(module.parameters()).device)
    try:
        yield blank
    finally:
        blank.to("cpu")


def blank_copy(module: nn.Module) -> nn.Module:
    """For `in_one_piece`, on the CPU."""
    return copy.deepcopy(module).cpu()


def _lengthen(module: nn.Module) -> None:
    """Give scalar parameters one dimension: FSDP has none to cut. They are used alike, and load into each other."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            if value.ndim == 0:
                part.register_parameter(name, nn.Parameter(value.detach().reshape(1), value.requires_grad))
