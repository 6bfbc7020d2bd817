"""A pinhole camera in front of the head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FRAMINGS = {"portrait": (2.7, -0.25), "face": (2.0, -0.17)}
"""Height (dm) and the middle's y of named framings: a head with hair and neck, or a face that fills the picture."""


@dataclass(frozen=True)
class Camera:
    """Looks along -z at ``center``; what a portrait lens at two metres sees is nearly parallel, so faces do not bulge.

    Args:
        size: image height and width in pixels, > 0.
        distance: from the camera to ``center``, dm, > 0.
        height: what fits into the image at that distance, dm, > 0. 2.7 is a head with hair and neck.
        center: (x, y, z), dm, of the point in the middle of the image.

    Raises:
        ValueError: a number is not finite or out of range.
    """

    size: int = 256
    distance: float = 12.0
    height: float = 2.7
    center: tuple[float, float, float] = (0.0, -0.25, 0.0)

    def __post_init__(self) -> None:
        numbers = (self.distance, self.height, *self.center)
        if self.size < 1 or not all(map(math.isfinite, numbers)) or self.distance <= 0 or self.height <= 0:
            raise ValueError(f"{self}: size >= 1 and finite numbers, distance and height > 0, are needed")

    @classmethod
    def framed(cls, framing: str, size: int = 256) -> Camera:
        """A camera with one of `FRAMINGS`. Raises `ValueError` for another name."""
        if framing not in FRAMINGS:
            raise ValueError(f"framing {framing!r}: one of {', '.join(FRAMINGS)}")
        height, middle = FRAMINGS[framing]
        return cls(size, height=height, center=(0.0, middle, 0.0))

    def project(self, points: Tensor) -> Tensor:
        """Points (..., 3) in dm to (..., 3): x and y in pixels, x right and y down, and the depth in dm.

        The centre of the first pixel is (0.5, 0.5), as `rasterize` has it. The person's left is on the image's right.
        """
        relative = points - points.new_tensor(self.center)
        depth = self.distance - relative[..., 2]
        scale = self.size * self.distance / self.height / depth
        half = self.size / 2
        return torch.stack([half + relative[..., 0] * scale, half - relative[..., 1] * scale, depth], -1)
