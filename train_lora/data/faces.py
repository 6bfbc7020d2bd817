"""Faces for training: from shards on disk, or drawn on the fly. Both give the same kind of batch."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auface_diffusers.anatomy import Appearance
from auface_diffusers.facs import units
from train_lora.data.shards import shard_name
from train_lora.data.synth import CONFIG_FILE, SynthConfig, draw_samples

IMAGE_ENDINGS = ("png", "webp")
DAMAGE = (OSError, ValueError, KeyError, StopIteration, SyntaxError)
"""What decoding a damaged sample may raise."""


@dataclass(frozen=True)
class FaceBatch:
    """Samples of `train_lora.data.synth`, B of them.

    Attributes:
        images: (B, 3, S, S) float32 in [0, 1].
        parts: (B, S, S) int64, see ``anatomy.render_tables.PARTS``.
        landmarks: (B, 68, 2) float32, x and y as shares of the image.
        levels: (B, C) float32, effective levels 0..5 in the order of ``units.channels``.
        identity: (B, 46). pose: (B, 3) and gaze: (B, 2) in degrees.
        labels: the sample's whole label, with texts and rules.
    """

    images: Tensor
    parts: Tensor
    landmarks: Tensor
    levels: Tensor
    identity: Tensor
    pose: Tensor
    gaze: Tensor
    labels: tuple[dict[str, Any], ...]

    def to(self, device: torch.device) -> FaceBatch:
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    @property
    def appearances(self) -> list[Appearance]:
        """How each face looks."""
        return [Appearance.from_dict(label["attributes"]) for label in self.labels]


@dataclass(frozen=True)
class FacesConfig:
    """Where faces come from; table ``[data]`` of a configuration.

    Attributes:
        shards: folder of ``train_lora synth``; or empty, to draw faces while training.
        faces: how many; of shards, 0 is all; of drawn ones, the length of an epoch.
        size, framing, people, first_person, posed, seed: of drawn faces, see `SynthConfig`.
    """

    shards: str = ""
    faces: int = 0
    size: int = 128
    framing: str = "face"
    people: int = 20000
    first_person: int = 0
    posed: float = 0.5
    seed: int = 0

    def open(self) -> ShardSource | RenderSource:
        """The source. Raises `ValueError` for a folder without enough shards, or an epoch of no faces."""
        if self.faces < 0:
            raise ValueError(f"data: faces {self.faces} is below 0")
        if self.shards:
            return ShardSource(Path(self.shards), self.faces)
        if self.faces < 1:
            raise ValueError("data: name a folder of shards, or say how many faces an epoch of drawn ones has")
        config = SynthConfig(
            out="",
            size=self.size,
            framing=self.framing,
            people=self.people,
            first_person=self.first_person,
            posed=self.posed,
            seed=self.seed,
            image_format="png",
            texts=1,
        )
        return RenderSource(config, self.faces)


class ShardSource:
    """Random access to the samples of a folder of shards.

    Raises:
        ValueError: no shards, a missing or damaged one, fewer faces than asked for, or shards of other units.
    """

    def __init__(self, folder: Path, faces: int = 0) -> None:
        self.paths = sorted(folder.glob("faces-*.tar"))
        if not self.paths or not (folder / CONFIG_FILE).exists():
            raise ValueError(f"{folder} holds no shards: make them with python -m train_lora synth")
        made_with = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if made_with["channels"] != list(units.channels):
            raise ValueError(f"{folder} was made with other action units: delete it and make the shards again")
        self.entries: list[dict[str, tuple[int, int, int]]] = []
        for number, path in enumerate(self.paths):
            if path.name != shard_name(number):
                raise ValueError(f"{folder / shard_name(number)} is missing: run python -m train_lora synth again")
            self.entries += _index(number, path)
            if faces and len(self.entries) >= faces:
                break
        if len(self.entries) < faces:
            raise ValueError(f"{folder} holds {len(self.entries)} faces, {faces} are asked for")
        self.entries = self.entries[: faces or None]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitems__(self, numbers: Sequence[int]) -> FaceBatch:
        """The samples of these numbers. Raises `ValueError` naming the shard of one that cannot be read."""
        samples = [self._read(self.entries[number]) for number in numbers]
        try:
            return collate(samples)
        except DAMAGE:
            for number, sample in zip(numbers, samples, strict=True):
                self._check(number, sample)
            raise

    def _check(self, number: int, sample: dict[str, bytes]) -> None:
        try:
            collate([sample])
        except DAMAGE as error:
            shard = next(iter(self.entries[number].values()))[0]
            raise ValueError(_damaged(self.paths[shard], f"face {number}: {error}")) from None

    def _read(self, entry: dict[str, tuple[int, int, int]]) -> dict[str, bytes]:
        sample = {}
        for ending, (number, offset, size) in entry.items():
            with self.paths[number].open("rb") as file:
                file.seek(offset)
                sample[ending] = file.read(size)
        return sample


class RenderSource:
    """Faces drawn when they are asked for; number n is always the same face, up to the rounding of `draw_samples`."""

    def __init__(self, config: SynthConfig, faces: int) -> None:
        self.config, self.faces = config, faces

    def __len__(self) -> int:
        return self.faces

    def __getitems__(self, numbers: Sequence[int]) -> FaceBatch:
        """The samples of these numbers."""
        return collate([sample for _, sample in draw_samples(self.config, numbers)])


def collate(samples: Sequence[dict[str, bytes]]) -> FaceBatch:
    """Decode samples into a batch."""
    labels = tuple(json.loads(sample["json"]) for sample in samples)
    pictures = [np.asarray(Image.open(io.BytesIO(_image(sample))).convert("RGB")) for sample in samples]
    parts = [np.asarray(Image.open(io.BytesIO(sample["parts.png"]))) for sample in samples]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255).contiguous()

    def column(name: str) -> Tensor:
        return torch.tensor([label[name] for label in labels], dtype=torch.float32)

    points = torch.tensor([label["landmarks"]["ibug68"] for label in labels], dtype=torch.float32)
    return FaceBatch(
        images=images,
        parts=torch.from_numpy(np.stack(parts)).long(),
        landmarks=points / images.shape[-1],
        levels=torch.tensor([list(label["effective_levels"].values()) for label in labels], dtype=torch.float32),
        identity=column("identity"),
        pose=column("pose"),
        gaze=column("gaze"),
        labels=labels,
    )


def _image(sample: dict[str, bytes]) -> bytes:
    return next(sample[ending] for ending in IMAGE_ENDINGS if ending in sample)


def _index(number: int, path: Path) -> list[dict[str, tuple[int, int, int]]]:
    """Where the files of each sample lie in a shard: (shard, offset, size) by ending."""
    samples: dict[str, dict[str, tuple[int, int, int]]] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                key, _, ending = entry.name.partition(".")
                samples.setdefault(key, {})[ending] = (number, entry.offset_data, entry.size)
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a bad header for the end
                raise tarfile.ReadError("it does not end as a tar file does")
    except tarfile.TarError as error:
        raise ValueError(_damaged(path, str(error))) from None
    return list(samples.values())


def _damaged(path: Path, why: str) -> str:
    return f"shard {path} is damaged ({why}): delete it and run python -m train_lora synth again"
