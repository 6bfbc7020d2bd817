"""Contact sheets: a labelled grid of rendered faces, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from auface_diffusers.anatomy.appearance import Appearance
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.head import HeadModel
from auface_diffusers.anatomy.render import render, sample_appearances
from auface_diffusers.facs import AUSet, units

LABEL, MARGIN = 18, 96
"""Pixels above the faces, for the levels, and beside them, for the scores."""


def every_unit() -> list[str]:
    """Every unit that a head can show, without a level, one side for units that have only one."""
    return [("L" if unit.one_sided else "") + unit.code for unit in units.values() if unit.still]


def draw_sheet(rows: Sequence[str], levels: Sequence[str], identities: Sequence[int], size: int = 160) -> Tensor:
    """A grid (3, H, W) in [0, 1]: a row a score; a column a level and a person.

    Args:
        rows: scores. One that is a unit without a level is drawn at each of ``levels``, another one as it is, once.
        levels: letters A..E.
        identities: seeds of the people.
        size: pixels of a face, 32..512.

    Raises:
        ValueError: something is empty or out of range; `NotationError` for a row that is no score.
    """
    if not rows or not levels or not identities or not 32 <= size <= 512:
        raise ValueError(
            f"{len(rows)} rows, {len(levels)} levels, {len(identities)} people of {size} pixels (32..512)"
        )
    head = HeadModel.from_default()
    looks = sample_appearances(list(identities), 0, len(identities))
    width = MARGIN + size * len(levels) * len(identities)
    sheet = Image.new("RGB", (width, LABEL + size * len(rows)), "white")
    text = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for number, level in enumerate(levels):
        text.text((MARGIN + 4 + number * size * len(identities), 3), level, fill="black", font=font)
    for row, score in enumerate(rows):
        top = LABEL + row * size
        text.text((4, top + 4), score, fill="black", font=font)
        text.text((4, top + 18), _name(score), fill="gray", font=font)
        for column, aus in enumerate(_at_levels(score, levels)):
            faces = _faces(head, aus, identities, looks, size)
            sheet.paste(faces, (MARGIN + column * size * len(identities), top))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


def _at_levels(score: str, levels: Sequence[str]) -> list[AUSet]:
    aus = AUSet.parse(score)
    if len(aus.codes) == 1 and aus.unscored == frozenset(aus.parts):
        return [AUSet({name: level for name in aus}) for level in levels]
    return [aus]


def _name(score: str) -> str:
    codes = AUSet.parse(score).codes
    return units[codes[0]].name[:15] if len(codes) == 1 else ""


def _faces(head: HeadModel, aus: AUSet, identities: Sequence[int], looks: list[Appearance], size: int) -> Image.Image:
    with torch.no_grad():  # the face fills the picture: what a unit does must be seen
        mesh = head(list(identities), aus)
        images = render(
            mesh, looks, Camera(size, height=1.95, center=(0.0, -0.3, 0.0)), head.levels(aus).expand(len(looks), -1)
        ).image
    strip = torch.cat(list(images), 2).permute(1, 2, 0)
    return Image.fromarray((strip * 255).round().byte().numpy())
