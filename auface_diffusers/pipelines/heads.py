"""The head that comes with the package, once a device."""

from __future__ import annotations

from functools import lru_cache

import torch

from auface_diffusers.anatomy import HeadModel


@lru_cache(maxsize=4)
def head_model(device: str) -> HeadModel:
    """The default head on a device. It is no component: every saved pipeline draws with the same one."""
    with torch.inference_mode(False):  # it is kept: what is made in inference mode could not be fitted later
        return HeadModel.from_default().to(device)
