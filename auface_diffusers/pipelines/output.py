"""What the pipelines give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from auface_diffusers.anatomy import Appearance
from auface_diffusers.facs import AUSet, RuleHit

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Images = list[Image.Image] | np.ndarray | Tensor


@dataclass
class VQAUFacePipelineOutput(BaseOutput):
    """B faces, fewer than asked for after an interrupt.

    Attributes:
        images: by ``output_type``: "pil" a list; "np" (B, S, S, 3) and "pt" (B, 3, S, S), float32 in [0, 1], RGB, "pt"
            on the CPU; "latent" the codes (B, h, w, G), which ``pipe.decode(codes, structure)`` paints.
        aus: B scores as drawn, after the rules.
        texts: B texts that the text encoder was given.
        traces: B traces of the rules that fired.
        structure: (B, K, S, S) float32, see ``anatomy.structure_map``.
        codes: (B, h, w, G) int64.
        identity: (B, 46) codes of the people.
        appearances: B of them.
        attributes: B mappings with the appearance, head_pose and gaze: with ``identity=output.identity`` and
            ``attributes=output.attributes`` the same people are drawn in the same scene.
        edited: (B, h, w) bool, the cells that were drawn; all of them in a new face.
    """

    images: Images
    aus: list[AUSet]
    texts: list[str]
    traces: list[tuple[RuleHit, ...]]
    structure: Tensor
    codes: Tensor
    identity: Tensor
    appearances: list[Appearance]
    attributes: list[dict[str, Any]]
    edited: Tensor


def to_output_type(images: Tensor, output_type: str) -> Images:
    """Pictures (B, 3, S, S) in [0, 1] as "pil", "np" or "pt"."""
    if output_type == "pt":
        return images
    pixels: np.ndarray = images.permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return pixels
    return [Image.fromarray(one) for one in (pixels * 255).round().astype("uint8")]
