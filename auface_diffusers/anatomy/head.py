"""`HeadModel`: identity, action units, pose and gaze to a mesh with landmarks; batched and differentiable.

Shapes: B batch, V vertices, C channels of ``units.channels``. Lengths are decimetres: x to the person's left, y up, z
forward; the origin lies between the eyes of the neutral head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from auface_diffusers.anatomy.asset import HeadAsset, default_asset
from auface_diffusers.anatomy.identity import PHENOTYPE, identity_codes, phenotype_weights
from auface_diffusers.anatomy.tables import table
from auface_diffusers.anatomy.vectors import unit
from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.levels import LEVEL_WEIGHTS, MAX_LEVEL

MAX_ANGLE = 90.0
NECK_PIVOT = (0.0, -0.95, -0.55)
"""Point about which the head turns, dm: the top of the spine."""
Scores: TypeAlias = AUSet | str | Sequence[AUSet | str] | Tensor | None
"""What heads show, see `HeadModel.forward`."""


@dataclass(frozen=True)
class HeadMesh:
    """Meshes of a batch; lengths in dm, after pose.

    Attributes:
        vertices: (B, V, 3).
        triangles: (T, 3) int64, shared by the batch.
        landmarks468: (B, 468, 3), MediaPipe's face mesh points; landmarks68: (B, 68, 3), iBUG order, 0-based.
        pupils: (B, 2, 3): the person's right eye, then the left, as the iBUG points come.
        rotation: (B, 3, 3) of the head; ``gaze``: (B, 2, 3) unit vectors of the right and left eye.
    """

    vertices: Tensor
    triangles: Tensor
    landmarks468: Tensor
    landmarks68: Tensor
    pupils: Tensor
    rotation: Tensor
    gaze: Tensor

    @cached_property
    def normals(self) -> Tensor:
        """Unit vertex normals (B, V, 3), outward."""
        a, b, c = (self.vertices[:, self.triangles[:, i]] for i in range(3))
        face = torch.cross(b - a, c - a, dim=-1)
        total = torch.zeros_like(self.vertices)
        for i in range(3):
            total = total.index_add(1, self.triangles[:, i], face)
        return unit(total)


class HeadModel(nn.Module):
    """A head with one shape a (unit, side), built from MakeHuman's CC0 data.

        >>> head = HeadModel.from_default()
        >>> mesh = head(identity=7, aus="12D+6C")
        >>> mesh.landmarks68.shape
        torch.Size([1, 68, 3])

    Args:
        asset: see `HeadAsset`.
    """

    vertices: Tensor
    triangles: Tensor
    basis: Tensor
    shapes: Tensor
    landmark_corners: Tensor
    landmark_weights: Tensor
    ibug68: Tensor
    right_eye: Tensor
    left_eye: Tensor
    level_weights: Tensor
    turns: Tensor

    def __init__(self, asset: HeadAsset) -> None:
        super().__init__()
        self.asset = asset
        recipe = table("shapes.toml")
        constants = {
            "vertices": asset.vertices,
            "triangles": asset.triangles,
            "basis": torch.cat([asset.phenotype, asset.components]).flatten(1),
            "shapes": asset.shapes.flatten(1),
            "landmark_corners": asset.triangles[asset.landmark_triangles],
            "landmark_weights": asset.landmark_weights,
            "ibug68": asset.ibug68,
            "right_eye": asset.vertices_of("right eye"),
            "left_eye": asset.vertices_of("left eye"),
            "level_weights": torch.tensor(LEVEL_WEIGHTS),
            "turns": _turns(recipe["turns"]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        channel = {name: index for index, name in enumerate(units.channels)}
        self.moved = tuple(name for name in asset.shape_names if name in channel)
        self.extras = asset.shape_names[len(self.moved) :]
        self.channel = channel
        self.full_angle: dict[str, float] = recipe["gaze"]["angle"]

    @classmethod
    def from_default(cls) -> HeadModel:
        """The head that comes with the package. Raises `AssetError` if its file is damaged."""
        return cls(default_asset())

    def forward(
        self,
        identity: int | Sequence[int] | Tensor | None = None,
        aus: Scores = None,
        *,
        pose: Tensor | Sequence[float] | None = None,
        gaze: Tensor | Sequence[float] | None = None,
    ) -> HeadMesh:
        """Build meshes; every argument of batch size 1 is used for the whole batch.

        Args:
            identity: seed, seeds, or codes (B, 46); None is the average head. See `identity_codes`.
            aus: one score (an `AUSet`, or codes such as "1C+L12B"), one a head, or levels (B, C) in 0..5 in the order
                of ``units.channels``; None is neutral.
            pose: (B, 3) or 3 numbers, degrees: yaw to the person's left, pitch up, roll to the person's left shoulder;
                added to what units 51-56 turn.
            gaze: (B, 2) or 2 numbers, degrees: yaw to the person's left, pitch up; added to what units 61-66 turn.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, levels outside 0..5, angles beyond 90
                degrees, or a score that does not say its side (U, A; see ``AUSet.choose_side``).
        """
        codes = identity_codes(identity).to(self.vertices)
        levels = self.levels(aus)
        turn = _angles(pose, 3, "pose").to(self.vertices)
        look = _angles(gaze, 2, "gaze").to(self.vertices)
        sizes = {len(x) for x in (codes, levels, turn, look)} - {1}
        if len(sizes) > 1:
            raise ValueError(
                f"batch sizes differ: {len(codes)} identities, {len(levels)} scores, {len(turn)}, {len(look)}"
            )
        batch = max(sizes, default=1)
        moves = (levels / MAX_LEVEL) @ self.turns  # (b, 8): what units do to head and eyes
        neutral = self.neutral(codes)
        head = torch.cat([turn, turn.new_zeros(len(turn), 1)], 1) + moves[:, :4]
        eyes = torch.stack([look + moves[:, 4:6], look + moves[:, 6:8]], 1)  # (b, 2, 2): right, left
        vertices = neutral + self._displacement(levels, eyes)
        vertices, pupils, gazes = self._turn_eyes(vertices.expand(batch, -1, -1), neutral, eyes.expand(batch, -1, -1))
        rotation = rotation_matrix(head[:, :3]).expand(batch, -1, -1)
        pivot = vertices.new_tensor(NECK_PIVOT)
        shift = torch.stack([torch.zeros_like(head[:, 3]), torch.zeros_like(head[:, 3]), head[:, 3]], -1)[:, None]
        share = self._head_share()  # (1, V, 1): the neck turns less the lower it is
        turned = (vertices - pivot) @ rotation.transpose(1, 2) + pivot + shift
        vertices = vertices + share * (turned - vertices)
        pupils = (pupils - pivot) @ rotation.transpose(1, 2) + pivot + shift
        corners = vertices[:, self.landmark_corners]  # (B, 468, 3, 3)
        landmarks = (corners * self.landmark_weights[..., None]).sum(2)
        return HeadMesh(
            vertices=vertices,
            triangles=self.triangles,
            landmarks468=landmarks,
            landmarks68=landmarks[:, self.ibug68],
            pupils=pupils,
            rotation=rotation,
            gaze=gazes @ rotation.transpose(1, 2),
        )

    def neutral(self, codes: Tensor) -> Tensor:
        """Vertices (B, V, 3) of codes (B, 46) at rest, head straight."""
        weights = torch.cat([phenotype_weights(codes, self.asset.phenotype_names), codes[:, len(PHENOTYPE) :]], 1)
        moved: Tensor = (weights @ self.basis).unflatten(1, (-1, 3))
        return self.vertices + moved

    def levels(self, aus: Scores) -> Tensor:
        """Levels (B, C) of scores, checked. Raises `ValueError` as `forward` does."""
        if isinstance(aus, Tensor):
            levels = aus if aus.ndim == 2 else aus[None]
            if levels.ndim != 2 or levels.shape[1] != len(self.channel) or not levels.is_floating_point():
                raise ValueError(f"levels {tuple(aus.shape)} {aus.dtype}: give floats (B, {len(self.channel)})")
            bad = ~((levels >= 0) & (levels <= MAX_LEVEL))  # also catches NaN
            if bad.any():
                raise ValueError(f"level {levels[bad][0]:g}: levels lie in 0..5 (0 = absent, 1..5 = A..E)")
            return levels.to(self.vertices)
        sets = [AUSet()] if aus is None else [aus] if isinstance(aus, AUSet | str) else list(aus)
        return torch.tensor([_score(one).vector() for one in sets]).to(self.vertices)

    def weights(self, levels: Tensor) -> Tensor:
        """Shape weights in [0, 1] of levels in 0..5: `facs.level_to_weight`, differentiable."""
        low = levels.detach().floor().clamp(max=MAX_LEVEL - 1).long()
        start, end = self.level_weights[low], self.level_weights[low + 1]
        return start + (levels - low) * (end - start)

    def _displacement(self, levels: Tensor, eyes: Tensor) -> Tensor:
        """Motion (b, V, 3) of the shapes, their correctives, and the skin that follows the eyes."""
        weights = self.weights(levels)
        of = {name: weights[:, index] for name, index in self.channel.items()}
        columns = [of[name] for name in self.moved]
        full = self.full_angle
        for name in self.extras:
            side, _, way = name.partition(" ")
            if way:  # "L down": right eye is 0, left eye 1; in and out mirror each other
                yaw, pitch = eyes[:, "RL".index(side), 0], eyes[:, "RL".index(side), 1]
                outward = yaw if side == "L" else -yaw
                angle = {"up": pitch, "down": -pitch, "out": outward, "in": -outward}[way]
                columns.append((angle / full[way]).clamp(0, 1))
            else:
                product = torch.ones_like(weights[:, 0])
                for factor in name.split("*"):
                    product = product * (1 - of[factor[1:]] if factor[0] == "!" else of[factor])
                columns.append(product)
        longest = max(len(column) for column in columns)
        stacked = torch.stack([column.expand(longest) for column in columns], 1)
        moved: Tensor = (stacked @ self.shapes).unflatten(1, (-1, 3))
        return moved

    def _turn_eyes(self, vertices: Tensor, neutral: Tensor, eyes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate the eyeballs about their centres; return vertices, pupils (B, 2, 3) and gaze directions (B, 2, 3)."""
        pupils, gazes = [], []
        for index, ball in enumerate((self.right_eye, self.left_eye)):
            rest = neutral[:, ball]
            centre = rest.mean(1, keepdim=True)
            rotation = rotation_matrix(torch.cat([eyes[:, index], torch.zeros_like(eyes[:, index, :1])], 1))
            turned = (rest - centre) @ rotation.transpose(1, 2) + centre
            vertices = vertices.index_copy(1, ball, turned.expand(len(vertices), -1, -1))
            forward = rotation[:, :, 2]
            radius = (rest - centre).norm(dim=-1).mean(1, keepdim=True)
            pupils.append((centre[:, 0] + forward * radius).expand(len(vertices), 3))
            gazes.append(forward.expand(len(vertices), 3))
        return vertices, torch.stack(pupils, 1), torch.stack(gazes, 1)

    def _head_share(self) -> Tensor:
        """How much of the head's turn a vertex makes: all above the jaw, less down the neck, none at its end."""
        low = self.vertices[:, 1].min()
        share = ((self.vertices[:, 1] - low) / (NECK_PIVOT[1] - low)).clamp(0, 1)
        return (share * share * (3 - 2 * share))[None, :, None]


def rotation_matrix(angles: Tensor) -> Tensor:
    """Rotation (B, 3, 3) of (B, 3) degrees: yaw to the left, pitch up, roll to the left shoulder; roll first, yaw
    last.
    """
    yaw, pitch, roll = torch.deg2rad(angles).unbind(1)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
        return torch.stack([torch.stack(list(row), -1) for row in rows], -2)

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    about_y = matrix([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    about_x = matrix([[one, zero, zero], [zero, cp, sp], [zero, -sp, cp]])
    about_z = matrix([[cr, sr, zero], [-sr, cr, zero], [zero, zero, one]])
    return about_y @ about_x @ about_z


def _score(one: AUSet | str) -> AUSet:
    if isinstance(one, str):
        return AUSet.parse(one)
    if not isinstance(one, AUSet):
        raise ValueError(f'aus {one!r}: give an AUSet, or codes such as "1C+L12B"')
    return one


def _angles(angles: Tensor | Sequence[float] | None, count: int, name: str) -> Tensor:
    values = torch.zeros(1, count) if angles is None else torch.as_tensor(angles, dtype=torch.float32)
    values = values if values.ndim == 2 else values[None]
    if values.ndim != 2 or values.shape[1] != count:
        raise ValueError(f"{name} {tuple(values.shape)}: give {count} angles in degrees, or (B, {count})")
    bad = ~(values.abs() <= MAX_ANGLE)  # also catches NaN
    if bad.any():
        raise ValueError(f"{name} {values[bad][0]:g}: angles lie in -90..90 degrees")
    return values


def _turns(rows: dict[str, dict[str, dict[str, float]]]) -> Tensor:
    """Matrix (C, 8) from level / 5 to head yaw, pitch, roll, forward, and yaw, pitch of the right and the left eye."""
    columns = {("head", name): i for i, name in enumerate(("yaw", "pitch", "roll", "forward"))}
    columns |= {
        (eye, name): 4 + 2 * i + j
        for i, eye in enumerate(("right_eye", "left_eye"))
        for j, name in enumerate(("yaw", "pitch"))
    }
    matrix = torch.zeros(len(units.channels), 8)
    for code, moves in rows.items():
        for what, amounts in moves.items():
            for target in ("right_eye", "left_eye") if what == "eyes" else (what,):
                for name, amount in amounts.items():
                    matrix[units.channels.index(code), columns[target, name]] = amount
    return matrix
