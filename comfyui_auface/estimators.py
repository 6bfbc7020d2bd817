"""Detectors of action units under ComfyUI's memory management."""

from functools import lru_cache

import comfy.model_management
import torch

from comfyui_auface.expression import choose
from comfyui_auface.models import managed
from comfyui_auface.scoring import CHUNK, DETECTORS, FACES

IMAGE_BYTES = 16 * 2**20
"""Memory that an image needs while it is read, besides the weights."""


def load(name: str, faces: str):
    """The detector, its network where ComfyUI wants it; call it before each run, ComfyUI may have moved it.

    Args:
        name: one of `DETECTORS`. faces: "find" finds and crops the face of a photograph first.

    Raises:
        DetectorError: something that it needs is missing; says what to install.
    """
    detector, patcher = _made(choose("detector", name, DETECTORS), choose("faces", faces, FACES) == "find")
    if patcher is not None:
        comfy.model_management.load_models_gpu([patcher], memory_required=CHUNK * IMAGE_BYTES, force_full_load=True)
    return detector


@lru_cache(maxsize=4)
def _made(name: str, find: bool):
    """A detector, and the patcher of its network if it is ours; others run their own networks, on the CPU."""
    from auface_diffusers.metrics.detectors import load_detector

    detector = load_detector(name, photos=find)
    network = getattr(detector, "estimator", None)
    if network is None:
        return detector, None
    return detector, managed(torch.nn.ModuleDict({"estimator": network}))
