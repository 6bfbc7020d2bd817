"""`PointHead`: action units from where the points of a face lie, how far they have moved, and what is seen there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = 68
"""Points that are trained to be iBUG's."""
FREE_POINTS = 28
LOOK = 12
"""Features that are taken from each point."""
GRID_FEATURES = 24
PLACE_SCALE = 4.0
"""Of the normalized places, so that a movement of a pixel is a number that a layer can see."""
MOTION_SCALE = 0.05
"""Decimetres: what a point usually moves, so that the layer's numbers are about one."""
PRIOR_LOGIT = -2.0
"""Output bias at the start: about one unit in eight is active."""


class PointHead(nn.Module):
    """Features to points of the face, and from what is seen at them and where they lie to (B, C, 2): the logits of
    presence and of level / 5.

    Action units move skin by a few pixels, and people differ by more: what a head that only pools learns slowly, the
    place of the points against each other says at once. The first 68 points are trained to be iBUG's; the others go
    where they help. How far each has moved is read as well: every face teaches that, while a unit is rare. A summary
    of the whole face, in a layout of 4x4, is added for folds between the points.

    Args:
        width: D of the features (B, D, G, G). fine: features (B, fine, 2G, 2G) of the stage before.
        channels: C. dropout: before the output.
    """

    def __init__(self, width: int, fine: int, channels: int, dropout: float, hidden: int = 512) -> None:
        super().__init__()
        self.upward = nn.Conv2d(width, fine, 1)
        self.norm = nn.GroupNorm(8, fine)
        self.heat = nn.Conv2d(fine, POINTS + FREE_POINTS, 1)
        self.look = nn.Linear(fine, LOOK)
        self.squeeze = nn.Conv2d(width, GRID_FEATURES, 1)
        size = (POINTS + FREE_POINTS) * (LOOK + 2) + 4 + 16 * GRID_FEATURES
        self.mlp = nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden))
        self.straight = nn.Linear(2 * (POINTS + FREE_POINTS), hidden)
        self.motion = nn.Linear(hidden, 3 * POINTS)
        self.of_motion = nn.Linear(3 * POINTS, 2 * channels)
        self.out = nn.Linear(hidden, 2 * channels)
        nn.init.constant_(self.out.bias, PRIOR_LOGIT)

    def forward(self, features: Tensor, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, C, 2); points (B, P, 2), x and y as shares of the picture; motion (B, 68, 3)."""
        x = F.silu(self.norm(fine + F.interpolate(self.upward(features), scale_factor=2.0, mode="nearest")))
        points = soft_argmax(self.heat(x))
        seen = F.grid_sample(x.float(), points[:, :, None] * 2 - 1, align_corners=False)[..., 0].transpose(1, 2)
        looks = self.look(seen.to(x.dtype)).flatten(1)  # (B, P * LOOK)
        middle = points.mean(1, keepdim=True)
        spread = (points - middle).square().mean((1, 2), keepdim=True).sqrt().clamp(min=0.05)
        place = ((points - middle) / spread).flatten(1) * PLACE_SCALE
        pose = torch.cat([middle.flatten(1), spread.flatten(1), spread.flatten(1).log()], 1)
        grid = F.adaptive_avg_pool2d(F.silu(self.squeeze(features)), 4).flatten(1)
        together = torch.cat([looks.float(), place, pose, grid.float()], 1).to(x.dtype)
        hidden = F.silu(self.mlp(together) + self.straight(place.to(x.dtype)))
        motion = self.motion(hidden)
        logits: Tensor = (self.out(hidden) + self.of_motion(motion)).unflatten(1, (-1, 2))
        return logits, points, motion.float().unflatten(1, (POINTS, 3)) * MOTION_SCALE


def soft_argmax(heat: Tensor) -> Tensor:
    """Points (B, P, 2), x and y in [0, 1], at the centres of mass of softmaxed maps (B, P, H, W)."""
    height, width = heat.shape[-2:]
    share = heat.float().flatten(2).softmax(-1).unflatten(2, (height, width))
    x = (torch.arange(width, device=heat.device) + 0.5) / width
    y = (torch.arange(height, device=heat.device) + 0.5) / height
    return torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], -1)
