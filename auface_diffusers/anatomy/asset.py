"""The head's data: mesh, identity basis and shapes, read from ``assets/head.safetensors`` and checked."""

from __future__ import annotations

import hashlib
import json
import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PATH = Path(__file__).with_name("assets") / "head.safetensors"


class AssetError(ValueError):
    """The head's data file is missing or damaged."""


@dataclass(frozen=True, eq=False)
class HeadAsset:
    """Tensors of the asset; V vertices, T triangles, U texture points, N shapes. Lengths are decimetres.

    Attributes:
        vertices: (V, 3) float32: x to the person's left, y up, z forward; the origin lies between the eyes.
        triangles: (T, 3) int64, counter-clockwise from outside; ``uv_triangles`` (T, 3) index ``uv`` (U, 2) in [0, 1].
        part: (T,) uint8, index into ``part_names``.
        mirror: (V,) int64: the vertex on the other side.
        masks: (V,) float32 in [0, 1] by name: "lips", "inner_mouth", "eyelids".
        phenotype: (P, V, 3) fields by ``phenotype_names``; ``components`` (K, V, 3) fields at one standard deviation.
        shapes: (N, V, 3) fields at full weight, by ``shape_names``.
        landmark_triangles, landmark_weights: (468,) and (468, 3): the points of MediaPipe's face mesh on this one.
        ibug68: (68,) int64: which of them are the iBUG-68 points.
    """

    vertices: Tensor
    triangles: Tensor
    uv: Tensor
    uv_triangles: Tensor
    part: Tensor
    part_names: tuple[str, ...]
    mirror: Tensor
    masks: dict[str, Tensor]
    phenotype: Tensor
    phenotype_names: tuple[str, ...]
    components: Tensor
    shapes: Tensor
    shape_names: tuple[str, ...]
    landmark_triangles: Tensor
    landmark_weights: Tensor
    ibug68: Tensor

    def vertices_of(self, part: str) -> Tensor:
        """Sorted vertex numbers (n,) of a part such as ``"left eye"``."""
        corners = self.triangles[self.part == self.part_names.index(part)]
        return torch.from_numpy(np.unique(corners.numpy()))


def load_asset(path: Path = PATH) -> HeadAsset:
    """Read and check an asset. Raises `AssetError` naming the file if it is missing, damaged or not a head."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise AssetError(f"head asset {path} cannot be read ({error}): install the package again") from None
    digest = hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()
    if metadata.get("sha256") != digest:
        raise AssetError(f"head asset {path} is damaged: its checksum does not fit; install the package again")
    names = tuple(json.loads(metadata["shapes"]))
    landmarks = json.loads(pkgutil.get_data(__name__, "landmarks.json") or b"{}")
    return HeadAsset(
        vertices=tensors["vertices"],
        triangles=tensors["triangles"].long(),
        uv=tensors["uv"],
        uv_triangles=tensors["uv_triangles"].long(),
        part=tensors["part"],
        part_names=tuple(json.loads(metadata["parts"])),
        mirror=tensors["mirror"].long(),
        masks={name: tensors[name].float() for name in ("lips", "inner_mouth", "eyelids")},
        phenotype=tensors["phenotype"].float(),
        phenotype_names=tuple(json.loads(metadata["phenotype"])),
        components=tensors["components"].float(),
        shapes=_dense(tensors, len(names)),
        shape_names=names,
        landmark_triangles=torch.tensor(landmarks["triangle"]),
        landmark_weights=torch.tensor(landmarks["weights"]),
        ibug68=torch.tensor(landmarks["ibug68"]),
    )


@lru_cache(maxsize=1)
def default_asset() -> HeadAsset:
    """The head that comes with the package; read once."""
    return load_asset()


def _dense(tensors: dict[str, Tensor], count: int) -> Tensor:
    """Unpack the shapes, which are stored as the vertices that they move."""
    dense = torch.zeros(count, *tensors["vertices"].shape)
    owner = torch.repeat_interleave(torch.arange(count), tensors["shape_sizes"].long())
    dense[owner, tensors["shape_vertices"].long()] = tensors["shape_deltas"].float()
    return dense
