"""AAAD of faces in training: what an estimator reads from them, against the levels that they were made with."""

from __future__ import annotations

import torch
from torch import Tensor

from auface_diffusers.facs import units
from auface_diffusers.metrics.tally import macro, overlap, per_column, tally
from auface_diffusers.metrics.targets import MASKED
from train_lora.data.labels import clear


def skin_aaad(presence: Tensor, levels: Tensor, covered: Tensor, least: int) -> float:
    """AAAD over the channels that skin shows, without head and gaze, which a pose turns as well; NaN if none counts.

    Args:
        presence: (N, C) in [0, 1]. levels: (N, C) in 0..5, what was asked; a trace does not count.
        covered: (C,) bool, what the estimator can tell. least: faces of either kind that a channel needs.
    """
    present, counts = clear(levels)
    codes = [name.split(":")[0].lstrip("LR") for name in units.channels]
    skin = torch.tensor([units[code].kind.startswith("action") for code in codes])
    states = torch.where(counts & covered & skin, present.int(), MASKED).numpy()
    return float(macro(per_column(tally(states, overlap(states, presence.numpy())), least))[0])
