"""`fit_head`: the head, its pose and the camera's shift and zoom that explain landmarks of a picture.

Shapes: B pictures. The head model is differentiable, so that plain gradient descent does it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from auface_diffusers.anatomy.appearance import Appearance
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.head import HeadModel
from auface_diffusers.anatomy.identity import COMPONENTS, PHENOTYPE, identity_codes, neutral_code

STEPS = (40, 80)
"""Steps of the placement alone, and of everything."""
RATE = 0.05
MAX_TURN = 45.0
MAX_SHIFT = 0.5
MAX_FITTED = 2.5
"""Standard deviations that a component may have."""
PRIOR = 2e-6
"""Weight of a squared component against squared shares of the picture: noise of a pixel in 128 moves nobody far."""


class FittedHead(NamedTuple):
    """Codes (B, 46), pose (B, 3) in degrees, B appearances of which zoom and shift count, and the root mean square
    distance (B,) that is left, as a share of the picture.
    """

    codes: Tensor
    pose: Tensor
    appearances: list[Appearance]
    error: Tensor


@torch.enable_grad()
def fit_head(
    head: HeadModel, landmarks: Tensor, levels: Tensor, camera: Camera | None = None, codes: Tensor | None = None
) -> FittedHead:
    """Fit heads to landmarks; the same arguments give the same fit.

    Args:
        head: the model, whose device is used.
        landmarks: (B, 68, 2) iBUG points, x and y as shares of the picture.
        levels: (B, C) in 0..5, what the faces do.
        camera: None is a portrait.
        codes: (B, 46) of people who are known; None fits the shape of the face as well. Gender, age and ancestry stay
            average: 68 points do not tell them.

    Raises:
        ValueError: shapes that do not fit each other, or landmarks that are not finite.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2) or not landmarks.isfinite().all():
        raise ValueError(f"landmarks {tuple(landmarks.shape)}: give finite shares (B, 68, 2)")
    given = (landmarks, levels) if codes is None else (landmarks, levels, codes)
    # callers may be in inference mode, whose tensors gradients cannot pass
    with torch.inference_mode(False), torch.enable_grad():
        return _fit(head, camera or Camera(), *(value.detach().clone() for value in given))


def _fit(head: HeadModel, view: Camera, landmarks: Tensor, levels: Tensor, codes: Tensor | None = None) -> FittedHead:
    target = landmarks.to(head.vertices)
    batch = len(target)
    levels = head.levels(levels).expand(batch, -1)
    base = (neutral_code() if codes is None else identity_codes(codes)).to(target).expand(batch, -1)
    place = torch.zeros(batch, 6, device=target.device, requires_grad=True)  # turns, zoom, shifts
    shape = torch.zeros(batch, COMPONENTS, device=target.device, requires_grad=codes is None)

    def person() -> Tensor:
        if codes is not None:
            return base
        return torch.cat([base[:, : len(PHENOTYPE)], MAX_FITTED * shape.tanh()], 1)

    def placement() -> tuple[Tensor, Tensor, Tensor]:
        bounded = place.tanh()
        return bounded[:, :3] * MAX_TURN, torch.exp(bounded[:, 3] * math.log(2)), bounded[:, 4:] * MAX_SHIFT

    def distance() -> Tensor:
        pose, zoom, shift = placement()
        points = head(person(), levels, pose=pose).landmarks68
        return (_shares(points, view, zoom, shift) - target).square().sum(-1).mean(1)  # (B,)

    for steps, free in zip(STEPS, ([place], [place, shape] if codes is None else [place]), strict=True):
        optimizer = torch.optim.Adam(free, lr=RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            cost = distance() + PRIOR * (MAX_FITTED * shape.tanh()).square().sum(1)
            cost.sum().backward()
            optimizer.step()
    with torch.no_grad():
        pose, zoom, shift = placement()
        looks = [
            Appearance(zoom=round(z, 4), shift_x=round(x, 4), shift_y=round(y, 4))
            for z, (x, y) in zip(zoom.tolist(), shift.tolist(), strict=True)
        ]
        return FittedHead(person().detach().cpu(), pose.cpu(), looks, distance().sqrt().cpu())


def _shares(points: Tensor, camera: Camera, zoom: Tensor, shift: Tensor) -> Tensor:
    """`project_points` with tensors (B,) and (B, 2), so that gradients pass, as shares of the picture (B, N, 2)."""
    flat = camera.project(points)[..., :2] / camera.size
    moved = shift * torch.tensor([1.0, -1.0], device=shift.device) / camera.height
    return (flat - 0.5 + moved[:, None]) * zoom[:, None, None] + 0.5
