"""Sample sheets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rows(batches: Sequence[Tensor]) -> Tensor:
    """One picture (3, H, W) of batches (B, 3, h, w) with one size, a row each."""
    return torch.cat([torch.cat(list(batch.float().cpu()), 2) for batch in batches], 1)
