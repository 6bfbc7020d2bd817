"""`render_faces`: pictures of heads, batched, in plain PyTorch on CPU and CUDA.

One raster pass finds what is solid in each pixel and another hair and lashes before it; colours are computed for the
visible pixels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.anatomy import light, shade
from auface_diffusers.anatomy.appearance import BACKGROUNDS, Appearance, project_points
from auface_diffusers.anatomy.background import backgrounds
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.hair import (
    COLUMNS,
    ROWS,
    SHOULDER_COLUMNS,
    SHOULDER_ROWS,
    hair_sheets,
    sheet_normals,
    shoulder_sheets,
)
from auface_diffusers.anatomy.head import HeadMesh, HeadModel, Scores
from auface_diffusers.anatomy.identity import identity_codes
from auface_diffusers.anatomy.looks import Looks, encode, gather
from auface_diffusers.anatomy.people import person_seed, sample_look
from auface_diffusers.anatomy.raster import Fragments, rasterize
from auface_diffusers.anatomy.render_tables import CLOTHES, EYES, HAIR, PARTS, SKIN, TEETH, TONGUE, fixed
from auface_diffusers.anatomy.vectors import unit
from auface_diffusers.anatomy.wrinkles import compose, shrink_for
from auface_diffusers.facs import units
from auface_diffusers.facs.levels import LEVEL_WEIGHTS, MAX_LEVEL


@dataclass(frozen=True)
class Rendering:
    """Pictures and what is seen in them.

    ``image`` (B, 3, H, W) in [0, 1], sRGB; ``parts`` (B, H, W) uint8, see `PARTS`; ``depth`` (B, H, W) dm from the
    camera, +inf on the background; ``normals`` (B, 3, H, W) unit vectors of the solid surface, 0 on the background.
    """

    image: Tensor
    parts: Tensor
    depth: Tensor
    normals: Tensor


def render_faces(
    head: HeadModel,
    aus: Scores = None,
    identity: int | Sequence[int] | Tensor | None = None,
    size: int = 256,
    seed: int = 0,
    *,
    attributes: Appearance | Sequence[Appearance] | None = None,
    pose: Tensor | Sequence[float] | None = None,
    gaze: Tensor | Sequence[float] | None = None,
    background: str | None = None,
    supersample: int = 1,
) -> Tensor:
    """Faces (B, 3, size, size) in [0, 1]; the same arguments give the same picture on one platform.

    Args:
        head, aus, identity, pose, gaze: see `HeadModel.forward`; what has batch size 1 is used for all.
        size: height and width in pixels, 16..2048.
        seed: of light, clothes, camera and background. Skin, hair and eyes follow the identity (for None the seed),
            so that a person stays the same across expressions and seeds.
        attributes: one appearance, or one a face, in place of random ones.
        background: one of `BACKGROUNDS`, in place of a random one.
        supersample: 1..4: draw so many times larger and average.

    Raises:
        ValueError: an argument is out of range, or batch sizes differ.
    """
    if background is not None and background not in BACKGROUNDS:
        raise ValueError(f"background {background!r}: one of {', '.join(BACKGROUNDS)}")
    with torch.no_grad():
        mesh = head(identity=identity, aus=aus, pose=pose, gaze=gaze)
        batch = len(mesh.vertices)
        levels = head.levels(aus).expand(batch, -1)
        if attributes is None:
            looks = sample_appearances(identity, seed, batch)
        else:
            looks = [attributes] if isinstance(attributes, Appearance) else list(attributes)
        if len(looks) != batch and len(looks) != 1:
            raise ValueError(f"{len(looks)} appearances for {batch} faces")
        looks = looks * batch if len(looks) == 1 else looks
        if background is not None:
            looks = [replace(look, background=background) for look in looks]
        return render(mesh, looks, Camera(size), levels, supersample=supersample).image


def sample_appearances(identity: int | Sequence[int] | Tensor | None, seed: int, batch: int) -> list[Appearance]:
    """Random appearances for people: the person's part follows the identity alone, the scene's the seed as well."""
    codes = identity_codes(identity)
    people = [seed] if identity is None else [person_seed(code) for code in codes]  # a seed is the person of its code
    if len(people) not in (1, batch):
        raise ValueError(f"{len(people)} identities for {batch} faces")
    looks = [
        sample_look(person, None if identity is None else code, seed)
        for person, code in zip(people, codes.cpu(), strict=True)
    ]
    return looks * batch if len(looks) == 1 else looks


def render(
    mesh: HeadMesh,
    appearances: Sequence[Appearance],
    camera: Camera | None = None,
    levels: Tensor | None = None,
    *,
    supersample: int = 1,
) -> Rendering:
    """Draw meshes of the default head.

    Args:
        mesh: of B heads.
        appearances: B of them.
        camera: None is ``Camera()``; each appearance's shift and zoom are added.
        levels: (B, C) in 0..5 in the order of ``units.channels``: presses the wrinkles; None is none.
        supersample: 1..4.

    Raises:
        ValueError: batch sizes differ, or an argument is out of range.
    """
    camera = camera or Camera()
    batch = len(mesh.vertices)
    if len(appearances) != batch:
        raise ValueError(f"{len(appearances)} appearances for {batch} faces")
    if not 16 <= camera.size * supersample <= 4096 or not 1 <= supersample <= 4:
        raise ValueError(f"size {camera.size}: 16..2048, and supersample {supersample}: 1..4")
    if levels is None:
        levels = mesh.vertices.new_zeros(batch, len(units.channels))
    if levels.shape != (batch, len(units.channels)) or not ((levels >= 0) & (levels <= MAX_LEVEL)).all():
        raise ValueError(f"levels {tuple(levels.shape)}: give ({batch}, {len(units.channels)}) in 0..5")
    with torch.no_grad():
        fine = replace(camera, size=camera.size * supersample)
        drawn, parts, depth, normals = _Painter(mesh, appearances, fine, levels).paint()
        image = _develop(drawn, appearances, camera.size, supersample)
    step = supersample
    return Rendering(image, parts[:, ::step, ::step], depth[:, ::step, ::step], normals[..., ::step, ::step])


class _Painter:
    """One batch of pictures, from meshes to linear light."""

    def __init__(self, mesh: HeadMesh, looks: Sequence[Appearance], camera: Camera, levels: Tensor) -> None:
        self.mesh, self.appearances, self.camera = mesh, looks, camera
        self.device = mesh.vertices.device
        self.fixed = fixed(str(self.device))
        self.looks: Looks = gather(looks, self.device)
        self.batch, self.size = len(looks), camera.size
        low = levels.floor().clamp(max=4).long()
        table = levels.new_tensor(LEVEL_WEIGHTS)
        self.weights = table[low] + (levels - low) * (table[low + 1] - table[low])
        zoom = torch.tensor([look.zoom for look in looks], device=self.device)
        self.pixel = camera.height / camera.size / float(zoom.mean())
        direction = light.lamp(self._column("key_azimuth"), self._column("key_elevation"))
        warm = self._column("warmth")[:, None]
        color = torch.cat([1 + 0.10 * warm, 1 + 0 * warm, 1 - 0.16 * warm], 1)
        lips = mesh.vertices[:, self.fixed.lips]
        forward = (lips * mesh.rotation[:, None, :, 2]).sum(-1).mean(1)
        self.scene = shade.Scene(
            looks=self.looks,
            lamp=direction,
            lamp_color=color * 0.86 * self._column("key_intensity")[:, None],
            eye=torch.tensor(camera.center, device=self.device)
            + torch.tensor([0, 0, camera.distance], device=self.device),
            rotation=mesh.rotation,
            lip_plane=forward,
            pixel=self.pixel,
        )

    def _column(self, name: str) -> Tensor:
        return torch.tensor([getattr(look, name) for look in self.appearances], device=self.device)

    def paint(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Linear light (B, H, W, 3), parts, depth and normals."""
        shoulders, neck_where = shoulder_sheets(self.mesh, self.appearances)
        vertices = torch.cat([self.mesh.vertices, shoulders], 1)
        shoulder_normals = sheet_normals(shoulders.unflatten(1, (SHOULDER_ROWS, SHOULDER_COLUMNS))).flatten(1, 2)
        normals = torch.cat([self.mesh.normals, shoulder_normals], 1)
        seen = rasterize(
            project_points(vertices, self.appearances, self.camera),
            self.fixed.triangles,
            (self.size, self.size),
            self.fixed.both_sides,
        )
        where = torch.cat([neck_where.new_zeros(self.batch, self.mesh.vertices.shape[1], 2), neck_where], 1)
        surface, spot, label, cloth_at = self._surface(seen, vertices, normals, where)
        image = backgrounds(self.appearances, self.size, self.device)
        parts = torch.zeros(seen.triangle.shape, dtype=torch.uint8, device=self.device)
        parts[spot] = label
        hair, hair_color, hair_cover, hair_solid = self._hair(seen.depth)
        image[spot] = self._solid(surface, label, cloth_at, parts, spot, hair_solid)
        image[hair] = image[hair] * (1 - hair_cover) + hair_color * hair_cover
        # soften stairs along outlines: cheaper than drawing everything larger
        image = self._smooth(image, torch.where(hair_solid > 0.5, HAIR, parts))
        parts = torch.where(hair_solid > 0.5, torch.tensor(HAIR, dtype=torch.uint8, device=self.device), parts)
        direction = torch.zeros_like(image).index_put(spot, surface.normal)
        return image, parts, seen.depth, direction.movedim(-1, 1)

    def _light(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Ambient light (B, N, 3) and the lamp's visibility (B, N) at head and shoulder points."""
        sky = light.sky(self._column("warmth"), self._column("rim"), self._column("key_azimuth"))
        ambient = light.irradiance(sky, normals) * self._column("ambient")[:, None, None]
        hidden = self.fixed.occlusion
        local = (self.scene.lamp[:, None] @ self.mesh.rotation)[:, 0]
        visible = (light.harmonics(local) @ hidden[:, :16].T).clamp(0, 1)  # (B, V)
        soft = self._column("key_softness")[:, None]
        visible = ((visible - 0.5) * (1.9 - 0.9 * soft) + 0.5 + 0.12 * soft).clamp(0.03, 1)
        extra = normals.shape[1] - visible.shape[1]
        openness = torch.cat([hidden[:, 16], hidden.new_full((extra,), 0.9)])
        bleed = openness[:, None] ** hidden.new_tensor([1.1, 1.4, 1.5])  # light in a fold has met red skin before
        return ambient * bleed, F.pad(visible, (0, extra), value=1.0)

    def _surface(
        self, seen: Fragments, vertices: Tensor, normals: Tensor, where: Tensor
    ) -> tuple[shade.Surface, tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Interpolate what the solid pixels show."""
        spot = _where(seen.triangle >= 0)
        corners = self.fixed.triangles[seen.triangle[spot]]
        weights = seen.barycentric[spot]
        ambient, lit = self._light(normals)
        moving = torch.cat([vertices, normals, ambient, lit[..., None], where], -1)
        count = moving.shape[1]
        mixed = F.embedding_bag(
            corners + count * spot[0][:, None], moving.flatten(0, 1), mode="sum", per_sample_weights=weights
        )
        still = F.embedding_bag(corners, self.fixed.still, mode="sum", per_sample_weights=weights)
        surface = shade.Surface(
            face=spot[0],
            rest=still[:, :3],
            place=mixed[:, :3],
            normal=unit(mixed[:, 3:6]),
            ambient=mixed[:, 6:9],
            lit=mixed[:, 9],
            open=still[:, 6],
            lips=still[:, 3],
            inner=still[:, 4],
            eyelids=still[:, 5],
        )
        return surface, spot, self.fixed.label[seen.triangle[spot]], mixed[:, 10:12]

    def _solid(
        self, s: shade.Surface, label: Tensor, where: Tensor, parts: Tensor, spot: tuple[Tensor, ...], hair: Tensor
    ) -> Tensor:
        """Colours (M, 3) of the solid pixels."""
        color = torch.zeros_like(s.place)
        wrinkles = compose(self.weights, self.looks.age_lines, shrink_for(self.pixel))
        skin = label == SKIN
        color[skin] = shade.skin(s.at(skin), self.scene, wrinkles)
        eye = (label == EYES[0]) | (label == EYES[1])
        if eye.any():
            part = s.at(eye)
            balls = torch.stack([self.mesh.vertices[:, self.fixed.eyes[i]].mean(1) for i in (0, 1)], 1)
            ball = (label[eye] == EYES[0]).long()
            color[eye] = shade.eyes(part, self.scene, balls, ball, self.fixed.eye_centers)
        teeth = (label == TEETH[0]) | (label == TEETH[1])
        inside = teeth | (label == TONGUE)
        color[inside] = shade.mouth(s.at(inside), self.scene, teeth[inside])
        inside = inside | ((label == SKIN) & (s.inner > 0.3))
        color[inside] *= shade.cavity(s.at(inside), self.scene)
        clothes = label == CLOTHES
        color[clothes] = shade.cloth(s.at(clothes), self.scene, where[clothes])
        return color * self._contact(parts, hair)[spot][:, None]

    def _contact(self, parts: Tensor, hair: Tensor) -> Tensor:
        """Shade (B, H, W) in 0..1 that lids throw on eyes, lips on teeth, and hair on the skin."""
        scale = self.size / 256 * 3.4 / self.camera.height
        eye = ((parts == EYES[0]) | (parts == EYES[1])).float()
        inside = ((parts >= TEETH[0]) & (parts <= TONGUE)).float()
        near = _box(eye, 2 * scale, 2.5 * scale)
        deep = _box(inside, 3 * scale, 2 * scale)
        above = _box(hair, 5 * scale, 6 * scale)
        result = 1 - 0.80 * eye * (1 - near) - 0.55 * inside * (1 - deep)
        return result * (1 - 0.5 * above * (parts > 0))

    def _hair(self, depth: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
        """Hair and lashes before the solid surface: where, colour (M, 3), cover (M, 1), and hair's cover (B, H, W)."""
        points, extra = hair_sheets(self.mesh, self.appearances)
        sheet = points.unflatten(1, (ROWS, COLUMNS))
        normals = sheet_normals(sheet).flatten(1, 2)
        strands = unit(torch.gradient(sheet, dim=1)[0]).flatten(1, 2)
        lashes = self.mesh.vertices[:, self.fixed.lashes]
        vertices = torch.cat([points, lashes], 1)
        lash_normals = self.mesh.rotation[:, None, :, 2].expand_as(lashes)
        ambient, _ = self._light(torch.cat([self.mesh.normals, normals], 1))
        ambient = ambient[:, self.mesh.vertices.shape[1] :]
        moving = torch.cat(
            [
                vertices,
                torch.cat([normals, lash_normals], 1),
                torch.cat([ambient, ambient[:, :1].expand_as(lashes)], 1),
                torch.cat([strands, lash_normals], 1),
                torch.cat([extra, self.fixed.lash_where.expand(self.batch, -1, -1)], 1),
            ],
            -1,
        )
        triangles = self.fixed.soft_triangles
        both = torch.ones(len(triangles), dtype=torch.bool, device=self.device)
        seen = rasterize(
            project_points(vertices, self.appearances, self.camera), triangles, (self.size, self.size), both
        )
        spot = _where((seen.triangle >= 0) & (seen.depth < depth))
        hit = seen.triangle[spot]
        count = moving.shape[1]
        index = triangles[hit] + count * spot[0][:, None]
        mixed = F.embedding_bag(index, moving.flatten(0, 1), mode="sum", per_sample_weights=seen.barycentric[spot])
        one = torch.ones_like(mixed[:, 0])
        s = shade.Surface(
            spot[0],
            mixed[:, 13:16],
            mixed[:, :3],
            unit(mixed[:, 3:6]),
            mixed[:, 6:9],
            one,
            one,
            one,
            one,
            one,
        )
        is_hair = hit < self.fixed.hair_triangles
        color, cover = torch.zeros_like(mixed[:, :3]), torch.zeros_like(one)
        along = unit(mixed[is_hair, 9:12])
        color[is_hair], cover[is_hair] = shade.hair(s.at(is_hair), self.scene, mixed[is_hair, 12:16], along)
        color[~is_hair], cover[~is_hair] = shade.lashes(s.at(~is_hair), self.scene, mixed[~is_hair, 12:14])
        solid = torch.zeros_like(depth).index_put(spot, cover * is_hair)
        return spot, color, cover[:, None], solid

    def _smooth(self, image: Tensor, parts: Tensor) -> Tensor:
        labels = F.pad(parts.float()[:, None], (1, 1, 1, 1), mode="replicate")
        edge = (F.max_pool2d(labels, 3, 1) != -F.max_pool2d(-labels, 3, 1)).movedim(1, -1)
        wide = F.pad(image.movedim(-1, 1), (1, 1, 1, 1), mode="replicate")
        soft = (wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]) / 4
        soft = (soft[..., :-2, :] + 2 * soft[..., 1:-1, :] + soft[..., 2:, :]) / 4
        return torch.where(edge, soft.movedim(1, -1), image)


def _where(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column, (M,) each, of the set pixels of (B, H, W)."""
    image, row, column = mask.nonzero(as_tuple=True)
    return image, row, column


def _box(mask: Tensor, radius: float, lower: float) -> Tensor:
    """Mean of (B, H, W) over a square about each pixel's neighbour ``lower`` pixels above it."""
    reach, down = max(1, round(radius)), max(1, round(lower))
    wide = F.pad(mask[:, None], (reach, reach, reach + down, reach), mode="replicate")[
        ..., : mask.shape[1] + 2 * reach, :
    ]
    return F.avg_pool2d(F.avg_pool2d(wide, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)[:, 0]


def _develop(drawn: Tensor, looks: Sequence[Appearance], size: int, supersample: int) -> Tensor:
    """Linear light (B, H, W, 3) to pictures (B, 3, size, size): lens blur, exposure, grain, sRGB."""
    image = drawn.movedim(-1, 1)
    if supersample > 1:
        image = F.avg_pool2d(image, supersample)
    blur = torch.tensor([look.blur for look in looks], device=image.device) * size / 256
    taps = torch.arange(-4, 5, device=image.device)
    kernel = torch.exp(-(taps**2) / (2 * blur[:, None].clamp(min=0.05) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(image.reshape(1, -1, size, size), (4, 4, 4, 4), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    image = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel)).view_as(image)
    image = encode(image * torch.tensor([look.exposure for look in looks], device=image.device)[:, None, None, None])
    grain = torch.stack([_grain(look.texture_seed, size) for look in looks]).to(image.device)
    amount = torch.tensor([look.noise for look in looks], device=image.device)[:, None, None, None]
    return (image + amount * grain).clamp(0, 1)


@lru_cache(maxsize=16)
def _grain(seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, size, size, generator=generator)


__all__ = ["PARTS", "Rendering", "render", "render_faces", "sample_appearances"]
