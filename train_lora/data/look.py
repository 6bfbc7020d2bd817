"""A chunk of items to a tar file of what came of them: crops with labels, or the reason why there is none.

A chunk depends on the configuration, its list of items and the pictures alone, so chunks can be made in any order, by
any number of workers, again after a kill, and are the same bytes. (MediaPipe's points differ a little from run to run,
and the crops with them.)
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from train_lora.data.face_crops import Crop, cropper
from train_lora.data.items import Item, Listed, read_items
from train_lora.data.pairs import Known, crops_tensor, encoded, estimated, label_of, upright
from train_lora.data.picture_files import PictureFiles
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.quality import (
    Skip,
    check_blur,
    check_pose,
    check_side,
    fitted_pose,
    perceptual_hash,
    sharpness,
    thumb,
)
from train_lora.data.shards import Sample, write_shard

BATCH = 32
WORK = "work"
ITEMS = "items.jsonl"
PLAN = "plan.json"
LOOK = "look"
"""Ending of the 8 bytes of the hash and the 256 of the thumb, which only `pack` needs."""
SKIP = "skip"


class Seen(NamedTuple):
    """A crop with its sharpness."""

    crop: Crop
    sharp: float


def chunk_name(number: int) -> str:
    """``"chunk-000012.tar"``."""
    return f"chunk-{number:06d}.tar"


def read_plan(out: Path) -> Listed:
    """What was listed. Raises `FileNotFoundError` before that."""
    value = json.loads((out / WORK / PLAN).read_text(encoding="utf-8"))
    return Listed(**{**value, "offsets": tuple(value["offsets"])})


def make_chunk(config: PrepareConfig, number: int) -> int:
    """Look at the pictures of a chunk and write it; return its number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores; and sums of one thread are always the same
    try:
        path = Path(config.out) / WORK / chunk_name(number)
        write_shard(path, chunk_samples(config, number))
    finally:
        torch.set_num_threads(threads)
    return number


def chunk_samples(config: PrepareConfig, number: int) -> Iterator[tuple[str, Sample]]:
    """Samples of a chunk, in the order of its items."""
    out = Path(config.out)
    plan = read_plan(out)
    items = read_items(out / WORK / ITEMS, plan.offsets[number], config.per_shard)
    look = _Looker(config, plan)
    first = number * config.per_shard
    for begin in range(0, len(items), BATCH):
        yield from look.batch(items[begin : begin + BATCH], first + begin)


class _Looker:
    def __init__(self, config: PrepareConfig, plan: Listed) -> None:
        self.config, self.source = config, plan.source
        self.files = PictureFiles(Path(plan.images))
        self.crop = cropper(config)
        self.posed = bool(config.quality.yaw or config.quality.pitch)

    def batch(self, items: list[Item], first: int) -> Iterator[tuple[str, Sample]]:
        seen: dict[int, Seen] = {}
        skips: dict[int, Skip] = {}
        for row, item in enumerate(items):
            try:
                seen[row] = self._look(item)
            except Skip as skip:
                skips[row] = skip
        read = self._read(seen)
        for row, item in enumerate(items):
            number = first + row
            try:
                if row in skips:
                    raise skips[row]
                yield f"{number:09d}", self._sample(item, seen[row], number, *read[row])
            except Skip as skip:
                told = {"split": item.split, "picture": item.picture, "reason": skip.reason, "detail": skip.detail}
                yield f"{number:09d}", {SKIP: json.dumps(told, ensure_ascii=False).encode()}

    def _look(self, item: Item) -> Seen:
        """Open, crop and check a picture. Raises `Skip`."""
        if item.skip is not None:
            raise Skip(*item.skip)
        crop = self.crop(self.files.open(item.picture))
        check_side(self.config.quality, crop.side)
        sharp = sharpness(crop.image)
        check_blur(self.config.quality, sharp)
        return Seen(crop, sharp)

    def _read(self, seen: Mapping[int, Seen]) -> dict[int, tuple[Known | None, np.ndarray | None]]:
        """What our estimator says where it is asked, and iBUG points in pixels where something has given them."""
        asked = self.source == "estimator" or (self.posed and any(one.crop.points is None for one in seen.values()))
        if not asked or not seen:
            return {row: (None, one.crop.points) for row, one in seen.items()}
        known, points = estimated(crops_tensor([one.crop.image for one in seen.values()]), self.config.sure)
        return {
            row: (known[at], points[at].numpy() * self.config.size if one.crop.points is None else one.crop.points)
            for at, (row, one) in enumerate(seen.items())
        }

    def _sample(
        self, item: Item, seen: Seen, number: int, estimate: Known | None, points: np.ndarray | None
    ) -> Sample:
        config, (crop, sharp) = self.config, seen
        measured: dict[str, Any] = {"sharpness": round(sharp, 1), "side": round(crop.side, 1)}
        if self.posed and points is not None:
            try:
                measured["pose"] = fitted_pose(points)
            except ValueError as error:
                raise Skip("no face", str(error)) from None
            check_pose(config.quality, measured["pose"])
        if self.source == "estimator":
            assert estimate is not None
            known = estimate
        else:
            known = Known(item.aus or "0", item.absent, item.unknown)
        if config.faces == "find":
            known = upright(known)
        label = label_of(config, self.source, item, known, number)
        label["measured"] = measured
        if crop.points is not None:  # those of our estimator are no ground truth
            label["landmarks"] = {"ibug68": [[round(x, 2) for x in xy] for xy in crop.points.tolist()]}
        data = io.BytesIO()
        options = {"quality": 92, "method": 4} if config.image_format == "webp" else {}
        crop.image.save(data, config.image_format.upper(), **options)
        looks = perceptual_hash(crop.image).to_bytes(8, "big") + thumb(crop.image).tobytes()
        return {config.image_format: data.getvalue(), "json": encoded(label), LOOK: looks}
