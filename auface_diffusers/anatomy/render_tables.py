"""What the renderer needs of the default head, found once a process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from auface_diffusers.anatomy import light
from auface_diffusers.anatomy.asset import default_asset
from auface_diffusers.anatomy.hair import COLUMNS, ROWS, SHOULDER_COLUMNS, SHOULDER_ROWS, grid_triangles

PARTS = ("background", "skin", "left eye", "right eye", "upper teeth", "lower teeth", "tongue", "clothes", "hair")
"""What the numbers of `Rendering.parts` mean."""
SKIN, EYES, TEETH, TONGUE, CLOTHES, HAIR = 1, (2, 3), (4, 5), 6, 7, 8


@dataclass(frozen=True)
class Fixed:
    """What does not change from face to face; the V points of the head come first, then those of the shoulders.

    ``triangles`` of the solid surface with their ``label`` and whether they have two sides; ``still`` (points, 7):
    rest place, masks of lips, inside of the mouth and eyelids, open share of the sky; ``occlusion`` (V, 17) of
    `light`; numbers of points of ``lips``, ``eyes`` (right, left) and ``lashes``; ``eye_centers`` (2, 3) at rest;
    ``lash_where`` of `shade.lashes`; ``soft_triangles``: those of hair (``hair_triangles`` many), then the lashes'.
    """

    triangles: Tensor
    label: Tensor
    both_sides: Tensor
    still: Tensor
    occlusion: Tensor
    lips: Tensor
    eyes: tuple[Tensor, Tensor]
    eye_centers: Tensor
    lashes: Tensor
    lash_where: Tensor
    soft_triangles: Tensor
    hair_triangles: int


@lru_cache(maxsize=4)
def fixed(device: str) -> Fixed:
    """What is found once a process and device."""
    asset = default_asset()
    lash = asset.part == asset.part_names.index("lashes")
    # the neck's cut edge stays under the clothes
    kept = ~lash & (asset.vertices[asset.triangles].amax(1)[:, 1] > -1.26)
    solid = asset.triangles[kept]
    sheet = grid_triangles(SHOULDER_ROWS, SHOULDER_COLUMNS) + len(asset.vertices)
    label = torch.cat([asset.part[kept] + 1, torch.full((len(sheet),), CLOTHES, dtype=torch.uint8)])
    both = torch.zeros(len(label), dtype=torch.bool)
    both[len(solid) :] = True
    hidden = light.occlusion("cpu")
    masks = [asset.masks["lips"], asset.masks["inner_mouth"], asset.masks["eyelids"], hidden[:, 16]]
    still = torch.cat([asset.vertices, torch.stack(masks, 1)], 1)
    still = torch.cat([still, torch.zeros(SHOULDER_ROWS * SHOULDER_COLUMNS, still.shape[1])])
    eyes = (asset.vertices_of("right eye"), asset.vertices_of("left eye"))
    lashes = asset.vertices_of("lashes")
    number = torch.zeros(len(asset.vertices), dtype=torch.long)
    number[lashes] = torch.arange(len(lashes))
    hair = grid_triangles(ROWS, COLUMNS)
    soft = torch.cat([hair, number[asset.triangles[lash]] + ROWS * COLUMNS])
    values = Fixed(
        triangles=torch.cat([solid, sheet]),
        label=label,
        both_sides=both,
        still=still,
        occlusion=hidden,
        lips=(asset.masks["lips"] > 0.5).nonzero().squeeze(1),
        eyes=eyes,
        eye_centers=torch.stack([asset.vertices[eye].mean(0) for eye in eyes]),
        lashes=lashes,
        lash_where=_lash_places(asset.vertices, lashes, asset.vertices_of("skin")),
        soft_triangles=soft,
        hair_triangles=len(hair),
    )
    moved: dict[str, Any] = {
        name: value.to(device) for name, value in vars(values).items() if isinstance(value, Tensor)
    }
    return replace(values, **moved, eyes=(eyes[0].to(device), eyes[1].to(device)))


def _lash_places(vertices: Tensor, lashes: Tensor, skin: Tensor) -> Tensor:
    """(N, 4): along the lid in strands, from root 0 to tip 1, and twice whether it is the lower lid's."""
    points = vertices[lashes]
    distance = torch.cdist(points, vertices[skin]).amin(1)
    side = points[:, 0].sign()
    angle = torch.atan2(points[:, 1], points[:, 0] * side - 0.308)
    out = torch.zeros_like(distance)
    for lid in (points[:, 1] > 0, points[:, 1] <= 0):
        out[lid] = distance[lid] / distance[lid].max()
    return torch.stack([angle * 9, out, (points[:, 1] <= 0).float(), (points[:, 1] <= 0).float()], 1)
