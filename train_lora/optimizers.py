"""AdamW, or AdamW whose moments take a byte a value (bitsandbytes), and the learning rate of a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from train_lora.loop import LoopConfig

OPTIMIZERS = ("adamw", "adamw8bit")
SMALLEST = 4096
"""Values from which bitsandbytes keeps the moments of a parameter in a byte each; below, in four."""
BLOCK = 256
"""Values that share a scale, of four bytes."""


def optimizer(config: LoopConfig, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a player; weight decay for what has two dimensions or more.

    Raises:
        ModuleNotFoundError: "adamw8bit" without bitsandbytes.
        ValueError: bitsandbytes cannot run where the module is, or the module is in shards.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind: Any = torch.optim.AdamW if config.optimizer == "adamw" else _eight_bit(trained[0])
    made: torch.optim.Optimizer = kind([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas)
    return made


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to ``final_share``."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * share


def moment_bytes(config: LoopConfig, module: nn.Module) -> int:
    """What the two moments of all trained parameters take."""
    total = 0
    for parameter in module.parameters():
        count = parameter.numel() if parameter.requires_grad else 0
        packed = config.optimizer == "adamw8bit" and count >= SMALLEST
        total += 2 * (count + 4 * -(-count // BLOCK) if packed else count * parameter.element_size())
    return total


def _eight_bit(first: Tensor) -> Any:  # noqa: ANN401 - a class of a package that may be missing
    """AdamW of bitsandbytes, once it has made a step where a parameter is: its builds can do more and less."""
    if hasattr(first, "full_tensor"):  # a DTensor, for which it has no kernels
        raise ValueError('train.optimizer "adamw8bit" cannot train a model in shards (FSDP): use "adamw", or DDP')
    try:
        import bitsandbytes
    except ModuleNotFoundError as error:
        if error.name != "bitsandbytes":
            raise
        raise ModuleNotFoundError(
            'train.optimizer "adamw8bit" needs bitsandbytes: pip install \'auface[8bit]\', or use "adamw"'
        ) from None
    device = first.device
    tried = nn.Parameter(torch.zeros(SMALLEST, device=device))
    tried.grad = torch.ones_like(tried)
    try:
        bitsandbytes.optim.AdamW8bit([tried], lr=1.0).step()
        moved = bool((tried != 0).all())
    except Exception as error:  # whatever a build without kernels for the device raises, it differs by version
        raise ValueError(_cannot(bitsandbytes.__version__, device, f" ({error})")) from error
    if not moved:
        raise ValueError(_cannot(bitsandbytes.__version__, device, ""))
    return bitsandbytes.optim.AdamW8bit


def _cannot(version: str, device: torch.device, why: str) -> str:
    return (
        f'train.optimizer "adamw8bit": bitsandbytes {version} cannot run on {device.type}{why}: '
        'pip install -U bitsandbytes, or use "adamw"'
    )
