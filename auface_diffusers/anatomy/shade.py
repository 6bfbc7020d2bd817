"""Colours of skin, eyes, mouth, hair and cloth: linear light of lists of M pixels, each with its face's number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from auface_diffusers.anatomy import texture
from auface_diffusers.anatomy.hair import CENTER
from auface_diffusers.anatomy.light import glint
from auface_diffusers.anatomy.looks import Looks
from auface_diffusers.anatomy.vectors import unit
from auface_diffusers.anatomy.wrinkles import pressed

EYE_RADIUS = 0.1383
HEAD_RADIUS = 0.85
"""Of the head's cylinder, dm: what an angle of `texture.cylinder` is multiplied with."""
_IRIS_ANGLE = 0.435  # radians from the optical axis: an iris of 11.7 mm on this eyeball


class Surface(NamedTuple):
    """Pixels of one material: face (M,), template place, position, unit normal (M, 3), ambient light (M, 3), the
    lamp's visibility, open share of the sky and masks (M,).
    """

    face: Tensor
    rest: Tensor
    place: Tensor
    normal: Tensor
    ambient: Tensor
    lit: Tensor
    open: Tensor
    lips: Tensor
    inner: Tensor
    eyelids: Tensor

    def at(self, mask: Tensor) -> Surface:
        """Those pixels that a mask (M,) or a list of numbers picks."""
        return Surface(*(field[mask] for field in self))


@dataclass(frozen=True)
class Scene:
    """What all pixels share: ``lamp`` (B, 3) direction, ``lamp_color`` (B, 3), ``eye`` (3,) the camera's place,
    ``rotation`` (B, 3, 3) of the heads, ``lip_plane`` (B,) how far forward the lips are, ``pixel`` width in dm.
    """

    looks: Looks
    lamp: Tensor
    lamp_color: Tensor
    eye: Tensor
    rotation: Tensor
    lip_plane: Tensor
    pixel: float

    def view(self, place: Tensor) -> Tensor:
        """Unit vectors (M, 3) from places to the camera."""
        return unit(self.eye - place)


def skin(s: Surface, scene: Scene, wrinkles: Tensor) -> Tensor:
    """Skin, lips and brows (M, 3); ``wrinkles`` (2 B, H, W, 3) from `wrinkles.compose`."""
    looks, face = scene.looks, s.face
    u, v = texture.cylinder(s.rest)
    maps = texture.textures(str(u.device))
    shift = looks.shift[face]
    tile = texture.sample(
        texture.level_for(maps.tile, texture.TILE, scene.pixel),
        u / texture.TILE + shift[:, 0],
        v / texture.TILE + shift[:, 1],
        wrap=True,
    )
    x = u.abs() / texture.REGION[1]
    y = (texture.REGION[3] - v) / (texture.REGION[3] - texture.REGION[2])
    region = texture.sample(texture.level_for(maps.regions, texture.REGION[1], scene.pixel), x, y)
    crease = pressed(s.rest, s.inner, face, wrinkles)
    relief = 0.55 * looks.pores[face, None] * tile[:, :2] * (1 - 0.6 * s.lips[:, None])
    slope_u = relief[:, 0] + crease[:, 0]
    slope_v = -relief[:, 1] + crease[:, 1]
    albedo, wet = _skin_color(s, looks, tile, region, crease[:, 2])
    hair = _stubble(s, looks, tile, region)
    brow = _brow(s.rest, looks, face, scene.pixel)
    cover = torch.maximum(hair, brow)[:, None]
    albedo = albedo * (1 - cover) + looks.brow_color[face] * cover
    roots = _scalp(s.rest, looks, face, tile)[:, None]
    albedo = albedo * (1 - roots) + 0.55 * looks.hair[face] * roots
    cover = torch.maximum(cover, roots)
    normal = tilt(s.normal, scene.rotation[face, :, 1], slope_u, slope_v)
    return _light_skin(s, scene, albedo, normal, wet * (1 - 0.7 * cover[:, 0]), crease[:, 2])


def _skin_color(s: Surface, looks: Looks, tile: Tensor, region: Tensor, crease: Tensor) -> tuple[Tensor, Tensor]:
    face = s.face
    base = looks.skin[face]
    redden = base.new_tensor([0.03, -0.20, -0.16])
    ruddy = looks.redness[face] * (0.55 * region[:, 6] + 0.20 * tile[:, 2]) + 1.1 * looks.blush[face] * region[:, 1]
    shade = 0.045 * tile[:, 2] - 0.10 * region[:, 4] - 0.10 * region[:, 5] * (0.5 + s.eyelids)
    color = base * (1 + shade)[:, None] * torch.exp(redden * ruddy[:, None])
    # below the eyes the skin is thin: less yellow, more violet
    color = color * torch.exp(base.new_tensor([-0.10, -0.16, -0.06]) * region[:, 4:5])
    few = (1 - looks.freckles[face]) * 0.95
    dots = ((tile[:, 3] - few) / 0.22).clamp(0, 1) * region[:, 2] * (looks.freckles[face] > 0)
    spots = ((tile[:, 5] - 1 + 0.8 * looks.age_spots[face]) / 0.25).clamp(0, 1)
    brown = 0.75 * torch.maximum(dots, 0.6 * spots)
    color = color * torch.exp(base.new_tensor([-0.35, -0.62, -0.85]) * brown[:, None])
    color = color * torch.exp(base.new_tensor([-0.22, -0.36, -0.38]) * crease.clamp(-0.3, 1.2)[:, None])
    lips = (s.lips * 1.25 - 0.1).clamp(0, 1)[:, None]
    lip = looks.lips[face] * (1 + 0.05 * tile[:, 2:3])
    color = color * (1 - lips) + lip * lips
    inner = s.inner[:, None] * (1 - 0.75 * lips)
    color = color * (1 - inner) + color.new_tensor([0.20, 0.045, 0.04]) * inner
    color = color * (1 - 0.45 * s.inner * lips[:, 0])[:, None]
    wet = looks.oil[face] * (0.45 + 0.75 * region[:, 3]) * (1 - lips[:, 0]) + lips[:, 0] * (
        0.8 + 0.8 * looks.lip_color[face]
    )
    return color, wet + 0.6 * s.inner


def _stubble(s: Surface, looks: Looks, tile: Tensor, region: Tensor) -> Tensor:
    amount = looks.stubble[s.face]
    where = region[:, 0] * (1 - s.lips.clamp(0, 0.5) * 2) * (1 - s.inner) * (s.rest[:, 2] > -0.75)
    dots = (tile[:, 4] * (0.55 + 0.9 * amount) + 0.10 + 0.35 * (amount - 0.6).clamp(min=0)).clamp(0, 1)
    return (where * dots * (0.25 + 0.75 * amount) * (amount > 0)).clamp(0, 0.97)


def _scalp(rest: Tensor, looks: Looks, face: Tensor, tile: Tensor) -> Tensor:
    """Cover (M,) of the roots of the head's hair, so that it grows out of the skin rather than lies on it."""
    offset = rest - rest.new_tensor(CENTER)
    around = torch.atan2(offset[:, 0].abs(), offset[:, 2]).rad2deg()
    up = torch.atan2(offset[:, 1], torch.hypot(offset[:, 0], offset[:, 2])).rad2deg()
    limit = looks.scalp[face, around.round().long().clamp(0, 180)]
    skull = (rest[:, 2] < 0.3) & ((rest[:, 0].abs() < 0.79) | (rest[:, 1] > 0.25))
    ragged = 2.5 * tile[:, 2] + 7 * (tile[:, 4] - 0.5)
    return ((up - limit + ragged) / 7 + 0.4).clamp(0, 1) * looks.scalp_cover[face] * skull


def _brow(rest: Tensor, looks: Looks, face: Tensor, pixel: float) -> Tensor:
    """Cover (M,) of the eyebrows: strands in a frame bent along each person's brow."""
    cover = torch.zeros_like(rest[:, 0])
    near = ((rest[:, 1] > 0.03) & (rest[:, 1] < 0.42) & (rest[:, 2] > -0.25)).nonzero().squeeze(1)
    if not len(near):
        return cover
    rest, face = rest[near], face[near]
    thick, arch, rise = looks.brow_thickness[face], looks.brow_arch[face], looks.brow_height[face]
    along = (rest[:, 0].abs() - 0.085) / 0.50
    t = along.clamp(-0.2, 1.2)
    middle = 0.172 + 0.022 * rise + (0.17 + 0.07 * arch) * t - (0.205 + 0.075 * arch) * t**2 + 0.01 * t**6
    half = (0.034 + 0.034 * thick) * (1.15 - 0.55 * t)
    across = (rest[:, 1] - middle) / half  # -1 bottom .. 1 top
    maps = texture.textures(str(rest.device)).brow
    strands = texture.sample(texture.level_for(maps, 0.50 / 0.86, pixel), 0.07 + 0.86 * along, 0.5 - 0.22 * across)
    strand = strands.gather(1, looks.brow_kind[face, None])[:, 0]
    dense = looks.brow_density[face]
    shadow = (
        torch.exp(-((across / 0.8) ** 2)) * ((along + 0.02) / 0.12).clamp(0, 1) * ((1.02 - along) / 0.2).clamp(0, 1)
    )
    inside = (along > -0.075) & (along < 1.06)
    value = (strand * (0.55 + 0.55 * dense) + 0.28 * dense * shadow) * (0.55 + 0.45 * looks.brow_dark[face])
    return cover.index_copy(0, near, (value * inside).clamp(0, 0.95))


def tilt(normal: Tensor, up: Tensor, slope_u: Tensor, slope_v: Tensor) -> Tensor:
    """Unit normals (M, 3) of a relief with slopes up and, by angle of `texture.cylinder`, to the person's left."""
    left = unit(torch.cross(up, normal, dim=-1))
    above = torch.cross(normal, left, dim=-1)
    return unit(normal - slope_u[:, None] / HEAD_RADIUS * left - slope_v[:, None] * above)


def _light_skin(s: Surface, scene: Scene, albedo: Tensor, normal: Tensor, wet: Tensor, crease: Tensor) -> Tensor:
    lamp = scene.lamp[s.face]
    view = scene.view(s.place)
    rough = (normal * lamp).sum(-1, keepdim=True)
    smooth = (s.normal * lamp).sum(-1, keepdim=True)
    # red light travels farthest under the skin: it sees less of the relief, and reaches round the terminator
    keep = normal.new_tensor([0.55, 0.85, 1.0])
    width = normal.new_tensor([0.24, 0.10, 0.06])
    cosine = smooth + (rough - smooth) * keep
    diffuse = ((cosine + width) / (1 + width)).clamp(min=0) ** (1 + width)
    shadow = s.lit[:, None] ** normal.new_tensor([0.75, 1.0, 1.08])
    tilt = ((normal - s.normal) * scene.rotation[s.face, :, 1]).sum(-1, keepdim=True)  # the sky lights what looks up
    sky = s.ambient * (1 + 0.55 * keep * tilt).clamp(0.3, 1.7) * (1 - 0.30 * crease.clamp(0, 1)[:, None])
    light = sky + scene.lamp_color[s.face] * diffuse * shadow
    half = unit(lamp + view)
    broad = glint(normal, half, view, 11.0, 0.028)
    tight = glint(normal, half, view, 48.0, 0.028)
    shine = (0.9 * broad + (0.4 + 1.6 * wet) * tight) * rough[:, 0].clamp(0, 0.3) / 0.3 * s.lit
    rim = (1 - (normal * view).sum(-1).clamp(0, 1)) ** 4 * 0.10
    gloss = shine[:, None] * scene.lamp_color[s.face] + (rim * (0.4 + 0.6 * wet) * s.open)[:, None] * s.ambient
    return albedo * light + gloss


def eyes(s: Surface, scene: Scene, centers: Tensor, ball: Tensor, rest_centers: Tensor) -> Tensor:
    """Sclera, iris and pupil (M, 3). ``ball`` (M,) 0 right, 1 left; centres (B, 2, 3) as posed and (2, 3) at rest."""
    looks, face = scene.looks, s.face
    axis = unit(s.rest - rest_centers[ball])
    angle = torch.atan2(torch.hypot(axis[:, 0], axis[:, 1]), axis[:, 2])
    turn = torch.atan2(axis[:, 1], axis[:, 0])
    r = angle / _IRIS_ANGLE
    soft = max(0.05, 0.6 * scene.pixel / (EYE_RADIUS * _IRIS_ANGLE))

    def within(limit: float | Tensor) -> Tensor:
        return ((limit - r) / soft + 0.5).clamp(0, 1)

    fibers = torch.zeros_like(r)
    for count, phase, strength in ((23.0, 0.3, 0.5), (41.0, 1.7, 0.35), (67.0, 0.9, 0.3)):
        fibers = fibers + strength * torch.sin(
            count * turn + phase + 2.0 * torch.sin(3 * r + looks.shift[face, 0] * 9)
        )
    ring = 1 - 0.75 * ((r - 0.80) / 0.20).clamp(0, 1) ** 1.5
    collar = 0.25 * torch.exp(-(((r - 0.52) / 0.12) ** 2))
    iris = looks.iris[face] * ((0.85 + 0.30 * fibers + collar) * ring)[:, None]
    pupil = within(looks.pupil[face])[:, None]
    iris = iris * (1 - pupil) + 0.004 * pupil
    # veins and a pink tinge towards the corners
    corner = ((angle - 0.75) / 0.6).clamp(0, 1)[:, None]
    white = s.normal.new_tensor([0.66, 0.62, 0.58]) * torch.exp(s.normal.new_tensor([-0.12, -0.50, -0.45]) * corner)
    share = within(1.0)[:, None]
    albedo = white * (1 - share) + iris * share
    normal = unit(s.place - centers[face, ball])
    lamp, view = scene.lamp[face], scene.view(s.place)
    cosine = ((normal * lamp).sum(-1, keepdim=True) + 0.25).clamp(min=0) / 1.25
    color = albedo * (s.ambient * 1.05 + scene.lamp_color[face] * cosine * (0.35 + 0.65 * s.lit[:, None]))
    # the cornea is rounder than the ball: its highlight sits on the iris, and a window shows beside it
    bulge = unit(normal + 0.25 * share * (normal - scene.rotation[face, :, 2]))
    half = unit(lamp * lamp.new_tensor([0.26, 0.13, 0.2]) + view)
    sharp = 190.0 if scene.pixel < 0.01 else 110.0
    spot = (glint(bulge, half, view, sharp, 0.03) * 4.0).clamp(max=1.6)
    window = s.normal.new_tensor([-0.30, 0.25, 0.92])
    second = (glint(bulge, unit(window + view), view, 140.0, 0.03) * 0.45).clamp(max=0.9)
    return color + (spot[:, None] * scene.lamp_color[face] + second[:, None] * s.ambient)


def mouth(s: Surface, scene: Scene, teeth: Tensor) -> Tensor:
    """Teeth where ``teeth`` (M,), else the tongue: darker the deeper inside."""
    base = torch.where(
        teeth[:, None], s.normal.new_tensor([0.70, 0.63, 0.52]), s.normal.new_tensor([0.42, 0.13, 0.12])
    )
    lamp, view = scene.lamp[s.face], scene.view(s.place)
    cosine = ((s.normal * lamp).sum(-1, keepdim=True) + 0.4).clamp(min=0) / 1.4
    half = unit(lamp + view)
    shine = (glint(s.normal, half, view, 60.0, 0.04) * 0.5)[:, None]
    lamp_color = scene.lamp_color[s.face]
    return base * (0.75 * scene.looks.room[s.face] + 0.6 * lamp_color * cosine) + shine * lamp_color


def cavity(s: Surface, scene: Scene) -> Tensor:
    """Light (M, 1) that reaches into the mouth: falls with the depth behind the lips."""
    forward = (s.place * scene.rotation[s.face, :, 2]).sum(-1)
    depth = (scene.lip_plane[s.face] - forward - 0.05).clamp(min=0)
    return torch.exp(-5.0 * depth)[:, None]


def cloth(s: Surface, scene: Scene, where: Tensor) -> Tensor:
    """Clothes, and skin above the neckline. ``where`` (M, 2): attributes of `hair.shoulder_sheets`."""
    looks, face = scene.looks, s.face
    down, turn = where.unbind(1)
    off = (turn - 0.5).abs() * 2  # 0 in front .. 1 behind
    edge = looks.neck_depth[face] * (1 - (off / 0.42).clamp(0, 1)) + 0.004
    soft = 0.012
    bare = ((edge - down) / soft).clamp(0, 1)[:, None]
    weave = texture.sample(
        texture.level_for(texture.textures(str(turn.device)).tile, 0.5, scene.pixel),
        s.place[:, 0] * 2.3,
        s.place[:, 1] * 2.3,
        wrap=True,
    )
    hem = torch.exp(-(((down - edge - 0.035) / 0.008) ** 2)) * 0.35
    color = looks.cloth[face] * (1 + 0.06 * weave[:, 2] - hem)[:, None]
    albedo = color * (1 - bare) + looks.skin[face] * bare
    cosine = ((s.normal * scene.lamp[face]).sum(-1, keepdim=True) + 0.15).clamp(min=0) / 1.15
    light = s.ambient + scene.lamp_color[face] * cosine * s.lit[:, None]
    contact = 1 - (0.30 + 0.35 * (1 - off) ** 2) * torch.exp(-down / 0.16)  # the head's own shade
    return albedo * light * contact[:, None]


def hair(s: Surface, scene: Scene, where: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (M, 3) and cover (M,) of hair; ``where`` (M, 4) as `hair.hair_sheets` has it, ``along`` (M, 3)
    strands.
    """
    looks, face = scene.looks, s.face
    turn, length, skull, hang = where.unbind(1)
    levels = texture.textures(str(turn.device)).strands
    seed = looks.shift[face]
    curl = looks.curl[face]
    strands = texture.level_for(levels, 0.75, scene.pixel)
    wave = 0.012 * curl * torch.sin(length * 45 + turn * 160)
    fine = texture.sample(
        strands, turn * 8 + wave * 8 + seed[:, 0], length * (0.45 + 2.5 * curl) + seed[:, 1], wrap=True
    )
    view, lamp = scene.view(s.place), scene.lamp[face]
    normal = torch.where((s.normal * view).sum(-1, keepdim=True) < 0, -s.normal, s.normal)
    jitter = (fine[:, 1:2] - 0.5) * 0.35 + (fine[:, :1] - 0.5) * 0.25
    tangent = unit(along + jitter * normal)
    color = looks.hair[face] * (0.55 + 0.55 * fine[:, :1] + 0.35 * fine[:, 1:2])
    gray = ((1.6 * looks.gray[face] - 0.5 * fine[:, 1] - 0.15 * fine[:, 0]) / 0.9).clamp(0, 1)[:, None]
    color = color * (1 - gray) + gray * (0.28 + 0.25 * fine[:, 1:2])
    facing = (normal * lamp).sum(-1, keepdim=True)
    diffuse = ((facing + 0.35) / 1.35).clamp(min=0)
    half = unit(lamp + view)
    slant = (tangent * half).sum(-1)
    lobe = (1 - slant * slant).clamp(min=0).sqrt()
    shine = (0.10 * lobe**28 + 0.05 * lobe**14) * (1 - 0.8 * curl) * (facing[:, 0] + 0.2).clamp(0, 1)
    light = s.ambient + scene.lamp_color[face] * diffuse
    light = light * (0.55 + 0.45 * fine[:, 1:2])
    result = color * light + (shine * (0.4 + 0.9 * fine[:, 0]))[:, None] * scene.lamp_color[face] * (
        0.25 + color.sqrt()
    )
    grazing = (normal * view).sum(-1).abs()
    front = (1 - ((turn - 0.5).abs() * 360 - 40) / 30).clamp(0, 1)
    start = 0.92 - 0.18 * front * (1 - curl) + 0.05 * curl
    tips = torch.maximum((skull - start) / (1 - start) * (1 - hang.clamp(0, 1)), (hang - 0.72) / 0.28).clamp(0, 1)
    outline = (1 - grazing / 0.16).clamp(0, 1) * (hang <= 0)
    threshold = torch.maximum(tips**1.2, outline * (0.5 + 0.4 * curl))
    mixed = 0.75 * fine[:, 0] + 0.25 * fine[:, 2]
    cover = ((mixed - threshold) / 0.18 + 1).clamp(0, 1)
    cover = cover * ((hang <= 0) | (skull < 1e-3))  # no strand joins what hangs and what does not
    return result, cover * looks.hair_density[face]


def lashes(s: Surface, scene: Scene, where: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (M, 3) and cover (M,); ``where`` (M, 2): along the lid in strands, and from root 0 to tip 1."""
    along, out = where.unbind(1)
    amount = scene.looks.lashes[s.face]
    strand = 0.5 + 0.5 * torch.cos(along * 2 * torch.pi)
    contrast = 1.0 if scene.pixel < 0.008 else 0.35
    cover = (1 - contrast) * 0.5 + contrast * strand
    reach = (1 - out / (0.40 + 0.75 * amount)).clamp(0, 1)
    lower = s.rest[:, 2]
    cover = cover * reach**0.5 * (1.1 + 0.6 * amount) * (1 - 0.65 * lower)
    return s.ambient * 0.02 + 0.004, cover.clamp(0, 0.95)
