"""What a made picture shows, from what it was made of: the free turns of head and eyes count as units too.

Shapes: B batch, C channels. A synth sample's ``effective_levels`` say what its face was told to do; its ``pose`` and
``gaze`` turn head and eyes on top. A picture cannot tell the two apart, so the labels must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.metrics.targets import MASKED, TRACE

CLOSED = 4.0
"""From this level on a lid hides the eye: nothing of the iris is left to see."""
LIDS = ("43", "45", "46")
"""The units that close an eye."""
FAR_SIDE = 50.0
"""Degrees of yaw from which the far side of the face is not judged (our choice)."""


class Labels(NamedTuple):
    """Labels of B pictures.

    Attributes:
        levels: (B, C) in 0..5.
        present: (B, C) bool. mask: (B, C) bool, where ``present`` counts.
        graded: (B, C) bool, where the level counts: of a unit that is there, be it as a trace, and can be seen.
    """

    levels: Tensor
    present: Tensor
    mask: Tensor
    graded: Tensor

    def states(self) -> np.ndarray:
        """(B, C) int8 of ON, OFF and MASKED, as `auface_diffusers.metrics` takes them."""
        return torch.where(self.mask, self.present.int(), MASKED).numpy().astype(np.int8)


def clear(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Of levels in 0..5: which units are there, and which are clearly there or clearly not; bool, same shape.

    A trace is neither, as in AAAD: no head is ever quite straight.
    """
    return levels >= TRACE[1], (levels <= TRACE[0]) | (levels >= TRACE[1])


def observed_levels(
    levels: Tensor, pose: Tensor, gaze: Tensor, turns: Tensor, channels: Sequence[str] | None = None
) -> Labels:
    """Labels of what pictures show.

    A unit that turns the head, or both eyes alike, gets the level of the whole turn: 5 * angle / its angle at E, with
    what its opposite and the free pose take away. Walleye, cross-eye and head forward come from the units alone.

    Args:
        levels: (B, C) in 0..5, the effective levels.
        pose: (B, 3) degrees of yaw to the person's left, pitch up, roll to the person's left shoulder, without units.
            Add what an augmentation turned (`augment.added_roll`).
        gaze: (B, 2) degrees of yaw and pitch, without units.
        turns: (C, 8), ``HeadModel.turns``.
        channels: names of the C channels, ``units.channels`` by default.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.
    """
    names = tuple(units.channels if channels is None else channels)
    shapes = {"levels": len(names), "pose": 3, "gaze": 2}
    for (name, width), value in zip(shapes.items(), (levels, pose, gaze), strict=True):
        if value.shape != (len(levels), width) or not value.isfinite().all():
            raise ValueError(f"{name} {tuple(value.shape)}: give finite values ({len(levels)}, {width})")
    if turns.shape != (len(names), 8):
        raise ValueError(f"turns {tuple(turns.shape)}: give ({len(names)}, 8), HeadModel.turns")
    angles = (levels / MAX_LEVEL) @ turns
    head = pose + angles[:, :3]
    eyes = gaze + (angles[:, 4:6] + angles[:, 6:8]) / 2  # what both eyes share
    shown = levels.clone()
    for index, row in enumerate(turns):
        alike = bool((row[4:6] == row[6:8]).all())
        for total, full in ((head, row[:3]), (eyes, row[4:6] if alike else row[:0])):
            for column in full.nonzero()[:, 0].tolist():
                shown[:, index] = (MAX_LEVEL * total[:, column] / full[column]).clamp(0, MAX_LEVEL)
    present, counts = clear(shown)
    seen = visible(levels, head[:, 0], names)
    return Labels(shown, present, seen & counts, seen & (shown >= TRACE[0]))


def labels_where_known(
    levels: Tensor, scored: Tensor, pose: Tensor, gaze: Tensor, turns: Tensor, channels: Sequence[str] | None = None
) -> Labels:
    """`observed_levels` of pictures of which not all is known: NaN counts as nothing, and its label does not count.

    Args:
        levels: (B, C) in 0..5, NaN where unknown.
        scored: (B, C) bool, false where a unit is there and its level is a guess.
        pose, gaze: NaN where unknown. A unit that turns head or eyes is then judged by its own label alone.
        turns, channels: see `observed_levels`.
    """
    known = ~levels.isnan()
    found = observed_levels(levels.nan_to_num(), pose.nan_to_num(), gaze.nan_to_num(), turns, channels)
    return found._replace(mask=found.mask & known, graded=found.graded & known & scored.to(known.device))


def visible(levels: Tensor, yaw: Tensor, channels: Sequence[str]) -> Tensor:
    """Which labels (B, C) a picture can show: no gaze behind closed lids, no far side of a head that is turned away.

    ``levels``: (B, C). ``yaw``: (B,) of the head in all, degrees to the person's left. Where the gaze of one eye is
    hidden, that of both still shows, except walleye and cross-eye, which compare the eyes.
    """
    nothing = torch.zeros(len(levels), dtype=torch.bool, device=levels.device)
    closed = {}
    for side in "LR":
        lids = [index for index, name in enumerate(channels) if name in {side + code for code in LIDS}]
        closed[side] = (levels[:, lids] >= CLOSED).any(1) if lids else nothing
    both, either = closed["L"] & closed["R"], closed["L"] | closed["R"]
    away = {"L": yaw >= FAR_SIDE, "R": yaw <= -FAR_SIDE}
    columns = []
    for name in channels:
        unit = units.get(name) or units.get(name[1:])
        if unit is not None and unit.kind == "eye position":
            columns.append(either if unit.code in ("65", "66") else both)
        else:
            columns.append(away.get(name[0], nothing))
    return ~torch.stack(columns, 1)
