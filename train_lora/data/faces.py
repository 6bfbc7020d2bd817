"""Faces for training: from shards on disk, or drawn on the fly. Both give the same kind of batch.

Pictures of real people (`train_lora.data.prepare`) come as the same batch with NaN where nobody knows.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auface_diffusers.anatomy import Appearance
from auface_diffusers.facs import units
from train_lora.data.shards import DATA_FILE, REPEATS, shard_name
from train_lora.data.split import repeated
from train_lora.data.synth import CONFIG_FILE, SynthConfig, draw_samples

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGE_ENDINGS = ("png", "webp")
IDENTITY = 46
"""Numbers of an identity code."""
NO_PART = -1
"""In a part map that a picture does not have."""
DAMAGE = (OSError, ValueError, KeyError, StopIteration, SyntaxError)
"""What decoding a damaged sample may raise."""


@dataclass(frozen=True)
class FaceLabels:
    """What is known of samples of `train_lora.data.synth` or pictures of `train_lora.data.prepare`, B of them.

    Attributes:
        levels: (B, C) float32, effective levels 0..5 in the order of ``units.channels``; NaN where unknown.
        identity: (B, 46). pose: (B, 3) and gaze: (B, 2) in degrees. All NaN of a picture.
        landmarks: (B, 68, 2) float32, x and y as shares of the image; NaN of a picture without.
        labels: the sample's whole label, with texts and rules.
    """

    levels: Tensor
    identity: Tensor
    pose: Tensor
    gaze: Tensor
    landmarks: Tensor
    labels: tuple[dict[str, Any], ...]

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    @property
    def scored(self) -> Tensor:
        """(B, C) bool, on the CPU: false where a unit is there but nobody has scored its level."""
        missing = [set(label.get("unscored", ())) for label in self.labels]
        return torch.tensor([[name not in row for name in units.channels] for row in missing])

    @property
    def appearances(self) -> list[Appearance]:
        """How each face looks."""
        return [Appearance.from_dict(label["attributes"]) for label in self.labels]


@dataclass(frozen=True)
class FaceBatch(FaceLabels):
    """Samples with their pictures.

    Attributes:
        images: (B, 3, S, S) float32 in [0, 1].
        parts: (B, S, S) int64, see ``anatomy.render_tables.PARTS``; `NO_PART` of a picture.
    """

    images: Tensor
    parts: Tensor


@dataclass(frozen=True)
class FacesConfig:
    """Where faces come from; table ``[data]`` of a configuration.

    Attributes:
        shards: folder of ``train_lora synth``, or a split of ``train_lora data``; or empty, to draw faces while
            training.
        balanced: pictures of rare units come more often in an epoch, as the split's `REPEATS` says.
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
    balanced: bool = False

    def open(self, pictures: bool = False) -> ShardSource | RenderSource:
        """The source.

        Args:
            pictures: whether the caller can do with pictures, which have neither part map nor identity.

        Raises:
            ValueError: a folder without enough shards, or with shards that will not do; or an epoch of no faces.
        """
        if self.faces < 0:
            raise ValueError(f"data: faces {self.faces} is below 0")
        if self.shards:
            source = ShardSource(Path(self.shards), self.faces, self.balanced)
            if source.pictures and not pictures:
                raise ValueError(
                    f"{self.shards} holds pictures, which have no part map, no identity and no look: this stage needs "
                    "faces of python -m train_lora synth"
                )
            return source
        if self.balanced:
            raise ValueError("data: balanced repeats pictures of train_lora data, and no shards are named")
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


Batch = TypeVar("Batch", bound=FaceLabels)
Decode = Callable[[Sequence[dict[str, bytes]]], Batch]


class ShardSource:
    """Random access to the samples of a folder of shards.

    Raises:
        ValueError: no shards, a missing or damaged one, fewer faces than asked for, or shards of other units.
    """

    def __init__(self, folder: Path, faces: int = 0, balanced: bool = False) -> None:
        self.paths = sorted(folder.glob("faces-*.tar"))
        told = next((folder / name for name in (CONFIG_FILE, DATA_FILE) if (folder / name).exists()), None)
        if not self.paths or told is None:
            raise ValueError(f"{folder} holds no shards: make them with python -m train_lora synth, or data")
        self.pictures = told.name == DATA_FILE
        made_with = json.loads(told.read_text(encoding="utf-8"))
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
        if balanced:
            self.entries = [self.entries[number] for number in repeated(_factors(folder, len(self.entries)))]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitems__(self, numbers: Sequence[int]) -> FaceBatch:
        """The samples of these numbers. Raises `ValueError` naming the shard of one that cannot be read."""
        return self._decoded(numbers, collate)

    def told(self, numbers: Sequence[int]) -> FaceLabels:
        """The same without pictures, which are most of the work."""
        return self._decoded(numbers, collate_labels, ("json",))

    def _decoded(self, numbers: Sequence[int], decode: Decode[Batch], endings: Sequence[str] = ()) -> Batch:
        samples = [self._read(self.entries[number], endings) for number in numbers]
        try:
            return decode(samples)
        except DAMAGE:
            for number, sample in zip(numbers, samples, strict=True):
                self._check(number, sample, decode)
            raise

    def _check(self, number: int, sample: dict[str, bytes], decode: Decode[Batch]) -> None:
        try:
            decode([sample])
        except DAMAGE as error:
            shard = next(iter(self.entries[number].values()))[0]
            raise ValueError(_damaged(self.paths[shard], f"face {number}: {error}")) from None

    def _read(self, entry: dict[str, tuple[int, int, int]], endings: Sequence[str]) -> dict[str, bytes]:
        sample = {}
        for ending, (number, offset, size) in entry.items():
            if endings and ending not in endings:
                continue
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

    def told(self, numbers: Sequence[int]) -> FaceLabels:
        """As of shards, but no faster."""
        return self.__getitems__(numbers)


def collate(samples: Sequence[dict[str, bytes]]) -> FaceBatch:
    """Decode samples into a batch."""
    told = collate_labels(samples)
    pictures = [np.asarray(Image.open(io.BytesIO(_image(sample))).convert("RGB")) for sample in samples]
    parts = [_parts(sample, label) for sample, label in zip(samples, told.labels, strict=True)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255).contiguous()
    return FaceBatch(**vars(told), images=images, parts=torch.from_numpy(np.stack(parts)).long())


def collate_labels(samples: Sequence[dict[str, bytes]]) -> FaceLabels:
    """Decode the labels of samples."""
    labels = tuple(json.loads(sample["json"]) for sample in samples)

    def column(name: str, width: int) -> Tensor:
        rows = [[math.nan] * width if _is_picture(label) else label[name] for label in labels]
        return torch.tensor(rows, dtype=torch.float32)

    unknown = {None: math.nan}
    levels = [[unknown.get(x, x) for x in label["effective_levels"].values()] for label in labels]
    points = torch.tensor([_points(label) for label in labels], dtype=torch.float32)
    return FaceLabels(
        levels=torch.tensor(levels, dtype=torch.float32),
        identity=column("identity", IDENTITY),
        pose=column("pose", 3),
        gaze=column("gaze", 2),
        landmarks=points / torch.tensor([label["size"] for label in labels])[:, None, None],
        labels=labels,
    )


def _is_picture(label: dict[str, Any]) -> bool:
    """Whether a sample is a picture: only these say who has labelled them."""
    return "origin" in label


def _parts(sample: dict[str, bytes], label: dict[str, Any]) -> np.ndarray:
    if _is_picture(label):
        return np.full((label["size"], label["size"]), NO_PART)
    return np.asarray(Image.open(io.BytesIO(sample["parts.png"])))


def _points(label: dict[str, Any]) -> list[list[float]]:
    if _is_picture(label) and "landmarks" not in label:
        return [[math.nan] * 2] * 68
    points: list[list[float]] = label["landmarks"]["ibug68"]
    return points


def _factors(folder: Path, count: int) -> np.ndarray:
    path = folder / REPEATS
    if not path.exists():
        raise ValueError(f"{folder} has no {path.name}: only the training split of train_lora data can be balanced")
    factors: np.ndarray = np.load(path)
    return factors[:count]


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
