"""Which precision a machine computes in hardware."""

from __future__ import annotations

import torch

PRECISIONS = ("auto", "bf16", "fp16", "no")


def settled(precision: str) -> str:
    """What ``train.precision`` comes to on this machine: "bf16", "fp16" or "no" (float32).

    "auto" is bf16 where the hardware has it: on GPUs from Ampere on, and on CPUs with AVX-512 or its like.
    """
    return precision if precision != "auto" else "bf16" if has_bf16() else "no"


def has_bf16() -> bool:
    """Whether bf16 is computed in hardware, on the GPU if there is one."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether the CPU has it. Emulated on one with AVX2 it took a hundred times as long as float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
