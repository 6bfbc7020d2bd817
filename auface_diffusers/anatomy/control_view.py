"""Where a head lies in a control image: before a camera, or over the 68 landmarks of a photo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.head import HeadMesh

RIGID = (0, 1, 15, 16, 27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45)
"""iBUG points that hardly follow an expression: upper jaw contour, nose and corners of the eyes."""


class Points(NamedTuple):
    """Where things are in the image, in pixels: ``ibug68`` (B, 68, 2), ``mesh468`` (B, 468, 2), ``pupils`` (B, 2, 2):
    the person's right, then left; ``neck`` (B, 2).
    """

    ibug68: Tensor
    mesh468: Tensor
    pupils: Tensor
    neck: Tensor


@dataclass(frozen=True)
class CameraView:
    """A camera's square image, cut or widened to (H, W) about its middle."""

    camera: Camera
    size: tuple[int, int]

    @classmethod
    def fit(cls, camera: Camera | None, size: tuple[int, int]) -> CameraView:
        """What ``camera`` shows fits the smaller side of the image."""
        return cls(replace(camera or Camera(), size=min(size)), size)

    def project(self, points: Tensor) -> Tensor:
        """Points (B, N, 3) in dm to (B, N, 3): x and y in pixels, depth > 0 in dm."""
        height, width = self.size
        shift = [(width - self.camera.size) / 2, (height - self.camera.size) / 2, 0.0]
        return self.camera.project(points) + points.new_tensor(shift)

    def rotate(self, directions: Tensor) -> Tensor:
        """Directions (B, N, 3) as the camera sees them: x to the image's right, y up, z to the camera."""
        return directions

    def place(self, mesh: HeadMesh, rest: HeadMesh, neck: Tensor) -> Points:
        """Project the mesh's points. ``neck``: vertices whose middle is the neck's point; ``rest`` is not needed."""
        flat = [mesh.landmarks68, mesh.landmarks468, mesh.pupils, mesh.vertices[:, neck].mean(1, keepdim=True)]
        ibug68, mesh468, pupils, base = (self.project(points)[..., :2] for points in flat)
        return Points(ibug68, mesh468, pupils, base[:, 0])


@dataclass(frozen=True)
class PhotoView:
    """A photo's view of the head, found from its landmarks (b, 68, 2): scaled orthographic.

    Attributes:
        landmarks: as given; ``scale`` (b, 1, 1) pixels a dm; ``rotation`` (b, 3, 3) of the head in the photo;
        middle: (b, 1, 3), dm, of the rigid points at rest, seen at ``origin`` (b, 1, 2) in the photo.
    """

    landmarks: Tensor
    scale: Tensor
    rotation: Tensor
    middle: Tensor
    origin: Tensor

    @classmethod
    def fit(cls, landmarks: Tensor, rest: HeadMesh) -> PhotoView:
        """Turn, scale and shift the head at rest onto the rigid points of a photo.

        Raises `ValueError` if the landmarks span no area.
        """
        rigid = list(RIGID)
        model, seen = rest.landmarks68[:, rigid], landmarks[:, rigid]
        middle, origin = model.mean(1, keepdim=True), seen.mean(1, keepdim=True)
        batch = max(len(model), len(seen))
        upright = ((seen - origin) * seen.new_tensor([1.0, -1.0])).expand(batch, -1, -1)  # y up, as in the model
        affine = torch.linalg.lstsq((model - middle).expand(batch, -1, -1), upright).solution.transpose(1, 2)
        left, stretch, right = torch.linalg.svd(affine, full_matrices=False)
        if not (stretch[:, 1] > 1e-3 * stretch[:, 0].clamp(min=1.0)).all():
            raise ValueError("landmarks68 span no area: they are no face")
        rows = left @ right  # the nearest two rows of a rotation
        rotation = torch.cat([rows, torch.linalg.cross(rows[:, :1], rows[:, 1:])], 1)
        return cls(landmarks, stretch.mean(1)[:, None, None], rotation, middle, origin)

    def project(self, points: Tensor) -> Tensor:
        """As `CameraView.project`; depth counts from far away, since the photo does not tell the distance."""
        turned = self.rotate(points - self.middle)
        xy = self.origin + self.scale * turned[..., :2] * turned.new_tensor([1.0, -1.0])
        return torch.cat([xy, 100.0 - turned[..., 2:]], -1)

    def rotate(self, directions: Tensor) -> Tensor:
        """As `CameraView.rotate`."""
        return directions @ self.rotation.transpose(1, 2)

    def place(self, mesh: HeadMesh, rest: HeadMesh, neck: Tensor) -> Points:
        """Add to the photo's points what the head's points move from ``rest`` to ``mesh``.

        Points that the photo does not give (of the 468, and the pupils) are those of the head at rest, warped so
        that its 68 points meet the photo's.
        """
        warp = _Warp.fit(self.project(rest.landmarks68)[..., :2], self.landmarks)
        placed = []
        for name in ("landmarks468", "pupils"):
            before, after = (self.project(getattr(one, name))[..., :2] for one in (rest, mesh))
            placed.append(warp(before) + (after - before))
        before, after = (self.project(one.landmarks68)[..., :2] for one in (rest, mesh))
        base = self.project(mesh.vertices[:, neck].mean(1, keepdim=True))[:, 0, :2]
        return Points(self.landmarks + (after - before), placed[0], placed[1], base)


class _Warp(NamedTuple):
    """Thin-plate spline of the plane; 1, x, y and one bump a knot."""

    knots: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, source: Tensor, target: Tensor) -> _Warp:
        batch, count = max(len(source), len(target)), source.shape[1]
        source, target = (x.double().expand(batch, -1, -1) for x in (source, target))
        flat = torch.cat([torch.ones_like(source[..., :1]), source], -1)
        top = torch.cat([_bump(source, source), flat], 2)
        bottom = torch.cat([flat.transpose(1, 2), source.new_zeros(batch, 3, 3)], 2)
        wanted = torch.cat([target, target.new_zeros(batch, 3, 2)], 1)
        weights = torch.linalg.solve(torch.cat([top, bottom], 1), wanted)
        assert weights.shape[1] == count + 3
        return cls(source, weights)

    def __call__(self, points: Tensor) -> Tensor:
        inputs = points.double().expand(len(self.knots), -1, -1)
        flat = torch.cat([torch.ones_like(inputs[..., :1]), inputs], -1)
        return (torch.cat([_bump(inputs, self.knots), flat], 2) @ self.weights).to(points.dtype)


def _bump(points: Tensor, knots: Tensor) -> Tensor:
    squared = (points[:, :, None] - knots[:, None]).square().sum(-1)
    return squared * squared.clamp(min=1e-12).log()
