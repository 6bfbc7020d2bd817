"""Speed and memory of ``train_lora data``: part of ``make bench``. Prints what was measured beside what is asked.

Two runs of a different length: what the longer one takes more is the cost of its pictures, start-up left out.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from auface_diffusers.anatomy import HeadModel, render_faces
from auface_diffusers.facs import AUSet
from train_lora.data.prepare import prepare
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.quality import QualityConfig

SHORT, LONG = 1024, 3072
SIDE = 512
SCORES = ("0", "12E", "1C+2C", "4D", "6C+12D", "26D", "15C+17C", "43E")


def pictures(folder: Path, count: int) -> None:
    """JPEG files of `SIDE` pixels with their codes, a folder a person; each drawn face is written many times."""
    head = HeadModel.from_default()
    for number, score in enumerate(SCORES):
        drawn = render_faces(head, aus=AUSet.parse(score), identity=[number], size=SIDE, seed=0)[0]
        image = Image.fromarray((drawn.permute(1, 2, 0) * 255).round().byte().numpy())
        for copy in range(count // len(SCORES)):
            path = folder / f"p{copy % 40}" / f"{number}-{copy}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=92)
            path.with_suffix(".txt").write_text(score)


def run(root: Path, count: int, config: PrepareConfig) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak megabytes of the largest worker so far."""
    pictures(root / str(count), count)
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    begun = time.perf_counter()
    prepare(replace(config, out=str(root / f"out{count}"), images=str(root / str(count))))
    wall = time.perf_counter() - begun
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    pairs = zip(after, before, strict=True)
    cpu = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in pairs)
    return wall, cpu, after[1].ru_maxrss / 1e3


def main() -> None:
    """Measure crops as they are with and without our estimator looking at the pose, and MediaPipe if it is there."""
    quality = QualityConfig(duplicates=0)
    plain = replace(quality, yaw=0.0, pitch=0.0)
    cropped = PrepareConfig(
        out="", images="x", source="sidecar", subjects="folder", unnamed="absent", faces="cropped", workers=2,
        per_shard=64, quality=plain,
    )  # fmt: skip
    kinds = {
        "pictures that are crops": cropped,
        "the same, pose read by our estimator": replace(cropped, quality=quality),
        "faces found by MediaPipe": replace(cropped, quality=quality, faces="find"),
    }
    for name, config in kinds.items():
        with tempfile.TemporaryDirectory() as root:
            try:
                short, long = (run(Path(root), count, config) for count in (SHORT, LONG))
            except ValueError as error:
                sys.stdout.write(f"{name}: not measured: {error}\n")
                continue
        more = LONG - SHORT
        wall, cpu, memory = (b - a for a, b in zip(short, long, strict=True))
        sys.stdout.write(
            f"{name + ', 2 workers':50} {more / wall:6.0f} images/s   asked: >= 50\n"
            f"{'':50} {cpu / more * 1e3:6.1f} ms CPU an image\n"
            f"{'':50} {memory:+6.0f} MB a worker for {more} more images, {long[2]:.0f} in all   asked: flat\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
