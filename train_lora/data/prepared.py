"""What generator and decoder learn from, worked out once a face and kept beside the shards: codes, structure map."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auface_diffusers.anatomy import STRUCTURE_CHANNELS, Appearance, Camera, HeadModel, attribute_vector, structure_map
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from train_lora.data.faces import FaceBatch, FaceLabels, RenderSource, ShardSource
from train_lora.data.synth import CONFIG_FILE
from train_lora.precision import cpu_has_bf16

SURFACE = 4
"""The first channels of a structure map are numbers in -1..1; the next ones say which part a pixel shows."""
ZERO = 127.0
"""The byte of 0 among numbers in -1..1, so that skin without a crease stays exactly that."""
IRIS = STRUCTURE_CHANNELS.index("iris")
"""The channel after the parts; numbers in -1..1 follow it."""
PACKED = SURFACE + 1 + len(STRUCTURE_CHANNELS) - IRIS
"""Bytes a pixel of a packed map."""


@dataclass(frozen=True)
class PreparedBatch(FaceLabels):
    """B faces, without their pictures.

    Attributes:
        codes: (B, N) int64. packed: (B, 9, S, S) uint8, the structure maps, see `pack`. attributes: (B, 66).
    """

    codes: Tensor
    packed: Tensor
    attributes: Tensor

    @property
    def structure(self) -> Tensor:
        """(B, K, S, S), see ``anatomy.structure_map``. Unpacked where the batch is: bytes travel to a GPU faster."""
        return unpack(self.packed)


@dataclass(frozen=True)
class PicturedBatch(PreparedBatch, FaceBatch):
    """With their pictures."""


class PreparedSource:
    """Faces of a source with codes and structure maps, computed at first use.

    With a ``folder``, the results are kept there in memory-mapped files, so that later epochs and runs read them.
    A face counts as kept when its flag is set, which is last: a killed run leaves nothing half-written that is used.

    Args:
        source: of faces.
        tokenizer: makes the codes.
        folder: for the files, or None.
        with_pictures: give a `PicturedBatch`; a `PreparedBatch` otherwise.
        half: make the codes under bf16 autocast if the CPU computes it, for there they are mostly made, also where a
            GPU trains: several times faster, a few codes round otherwise.
    """

    def __init__(
        self,
        source: ShardSource | RenderSource,
        tokenizer: FaceTokenizer,
        folder: Path | None,
        half: bool = False,
        with_pictures: bool = False,
    ) -> None:
        half = half and cpu_has_bf16()
        self.with_pictures = with_pictures
        self.source, self.tokenizer, self.half = source, tokenizer.eval().requires_grad_(False), half
        self.head = HeadModel.from_default()
        self.size = tokenizer.config["image_size"]
        height, width, groups = tokenizer.code_shape
        count = len(source)
        self.codes = self.structure = self.done = None
        if folder is not None:
            made = zlib.crc32((folder / CONFIG_FILE).read_bytes()) if (folder / CONFIG_FILE).exists() else 0
            place = folder / f"prepared-{_fingerprint(tokenizer)}-{made:08x}-{count}{'-bf16' if half else ''}"
            place = place.with_name(f"{place.name}-{len(STRUCTURE_CHANNELS)}")
            shapes = {
                "codes": ((count, height * width * groups), np.int16),
                "structure": ((count, PACKED, self.size, self.size), np.uint8),
                "done": ((count,), np.uint8),
            }
            if not (place / "done.npy").exists():
                _begin(place, shapes)
            self.codes, self.structure, self.done = (np.load(place / f"{name}.npy", mmap_mode="r+") for name in shapes)

    def __getstate__(self) -> dict[str, Any]:
        """Pickled by name for data workers: an array itself would be copied, and what is written to it lost."""
        arrays = {name: value.filename for name, value in vars(self).items() if isinstance(value, np.memmap)}
        return vars(self) | arrays

    def __setstate__(self, state: dict[str, Any]) -> None:
        opened = {name: np.load(state[name], mmap_mode="r+") for name in ("codes", "structure", "done") if state[name]}
        vars(self).update(state | opened)

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, numbers: Sequence[int]) -> PreparedBatch:
        """The faces of these numbers."""
        device = self.tokenizer.device
        missing = [row for row, number in enumerate(numbers) if self.done is None or not self.done[number]]
        faces: Any = self.source.__getitems__(numbers) if missing or self.with_pictures else self.source.told(numbers)
        looks = faces.appearances
        codes = torch.empty(len(numbers), self._code_count(), dtype=torch.int64)
        packed = torch.empty(len(numbers), PACKED, self.size, self.size, dtype=torch.uint8)
        for row, number in enumerate(numbers):
            if row not in missing:
                assert self.codes is not None
                assert self.structure is not None
                codes[row] = torch.from_numpy(self.codes[number].astype(np.int64))
                packed[row] = torch.from_numpy(self.structure[number].copy())
        if missing:
            chosen = torch.tensor(missing)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.half):
                codes[chosen] = self.tokenizer.encode(faces.images[chosen].to(device)).flatten(1).cpu()
            packed[chosen] = self._draw(faces, looks, missing)
            self._keep([numbers[row] for row in missing], codes[chosen], packed[chosen])
        told = {one.name: getattr(faces, one.name) for one in fields(FaceBatch if self.with_pictures else FaceLabels)}
        kind = PicturedBatch if self.with_pictures else PreparedBatch
        return kind(**told, codes=codes, packed=packed, attributes=attribute_vector(looks))

    def _code_count(self) -> int:
        height, width, groups = self.tokenizer.code_shape
        return height * width * groups

    def _draw(self, faces: Any, looks: list[Appearance], rows: list[int]) -> Tensor:
        mesh = self.head(faces.identity[rows], faces.levels[rows], pose=faces.pose[rows], gaze=faces.gaze[rows])
        camera, seen = Camera.framed(faces.labels[0]["framing"], self.size), [looks[row] for row in rows]
        return pack(structure_map(mesh, self.head, seen, self.size, camera, faces.levels[rows], oversample=1))

    def _keep(self, numbers: list[int], codes: Tensor, packed: Tensor) -> None:
        if self.done is not None and self.codes is not None and self.structure is not None:
            self.codes[numbers] = codes.numpy()
            self.structure[numbers] = packed.numpy()
            self.done[numbers] = 1


def pack(structure: Tensor) -> Tensor:
    """A structure map (B, K, S, S) without soft edges as bytes (B, 9, S, S): surface, part, iris, relief."""
    shares = structure[:, SURFACE:IRIS]
    part = torch.where(shares.amax(1) > 0.5, shares.argmax(1) + 1, 0)
    iris = structure[:, IRIS : IRIS + 1] * 255
    surface, relief = (
        ((signed + 1) * ZERO).round().clamp(0, 255) for signed in (structure[:, :SURFACE], structure[:, IRIS + 1 :])
    )
    return torch.cat([surface, part[:, None], iris.round(), relief], 1).to(torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`, within 1/127."""
    size = packed.shape[-2:]
    out = torch.empty(len(packed), packed.shape[1] - 1 + IRIS - SURFACE, *size, device=packed.device)
    parts = torch.arange(1, IRIS - SURFACE + 1, dtype=torch.uint8, device=packed.device)
    out[:, :SURFACE] = packed[:, :SURFACE].float() / ZERO - 1
    out[:, SURFACE:IRIS] = packed[:, SURFACE : SURFACE + 1] == parts[:, None, None]
    out[:, IRIS] = packed[:, SURFACE + 1].float() / 255
    out[:, IRIS + 1 :] = packed[:, SURFACE + 2 :].float() / ZERO - 1
    return out


def _fingerprint(tokenizer: FaceTokenizer) -> str:
    """Of what makes the codes: the encoder, not the decoder."""
    digest = hashlib.sha256()
    for name, value in sorted(tokenizer.encoder.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _begin(place: Path, shapes: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
    """Empty files by name in a new folder. Several processes may begin at once: that of the first one is used."""
    part = place.with_name(f"{place.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    for name, (shape, kind) in shapes.items():
        np.lib.format.open_memmap(part / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
    try:
        os.rename(part, place)
    except OSError:  # another one was first: a folder that is not empty is not replaced
        shutil.rmtree(part)
