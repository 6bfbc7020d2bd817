"""Pictures of shards as latents, worked out once and kept on the disk, with their captions.

Crops of shards are square and hold the whole face, so there are no buckets: a picture is resized to the resolution.
It is never mirrored, because left and right are part of what the captions say.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.facs.describe import STYLES
from auface_diffusers.models.adapters import base_hash
from train_lora.data.faces import ShardSource
from train_lora.together import processes

CAPTIONS = (*STYLES, "varied")
"""Kinds of text that shards have: the processor's styles, and its sentences in other words."""
KEPT = ("effective", "origin", "subject", "person", "size")
"""What is kept of a label beside its texts."""
BATCH = 4
"""Pictures that the VAE takes at once: at 1024 pixels one takes gigabytes."""


@dataclass(frozen=True)
class LatentBatch:
    """B pictures.

    Attributes:
        latents: (B, C, R / 8, R / 8) float32, times the VAE's scaling factor: about unit variance.
        captions: of each, the texts that may be its caption. sizes: pixels that each had in the shard.
    """

    latents: Tensor
    captions: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]


class LatentSource:
    """Random access to latents and captions.

    Args:
        shards: the pictures. styles: which of `CAPTIONS` are used.
        vae: an ``AutoencoderKL`` in float32. resolution: of the pictures it gets, in pixels.
        place: folder for the latents; a part that is there already is not worked out again.

    Raises:
        ValueError: a picture without a caption of these styles.
    """

    def __init__(self, shards: ShardSource, styles: Sequence[str], vae: Any, resolution: int, place: Path) -> None:  # noqa: ANN401 - diffusers' own
        self.labels, self.captions = [], []
        for number, label in enumerate(labels_of(shards)):
            texts = _texts(label["texts"], styles)
            if not texts:
                raise ValueError(f"picture {number} of the shards has no caption of captions {', '.join(styles)}")
            self.captions.append(texts)
            self.labels.append({name: label[name] for name in KEPT if name in label})
        self.path = _encoded(shards, vae, resolution, place)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitems__(self, numbers: Sequence[int]) -> LatentBatch:
        """The pictures of these numbers."""
        kept = np.load(self.path, mmap_mode="r")  # opened here: a data worker has the path, not a copy of it all
        return LatentBatch(
            latents=torch.from_numpy(kept[list(numbers)].astype(np.float32)),
            captions=tuple(self.captions[number] for number in numbers),
            sizes=tuple(self.labels[number]["size"] for number in numbers),
        )


def labels_of(shards: ShardSource) -> Iterator[dict[str, Any]]:
    """The labels of shards in order; pictures are not opened."""
    for number in range(len(shards)):
        yield from shards.told([number]).labels


def _texts(texts: dict[str, Any], styles: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for style in styles:
        given = texts.get(style) or []
        found += [given] if isinstance(given, str) else given
    return tuple(found)


@torch.no_grad()
def _encoded(shards: ShardSource, vae: Any, resolution: int, place: Path) -> Path:  # noqa: ANN401 - as above
    """The file of all latents, (N, C, R / 8, R / 8) float16; several processes share the work."""
    process = processes()
    side = resolution // 2 ** (len(vae.config.block_out_channels) - 1)
    folder = place / f"latents-{base_hash(vae)}-{resolution}-{_fingerprint(shards):08x}"
    path, done = folder / "latents.npy", folder / "done.npy"
    with process.main_process_first():
        folder.mkdir(parents=True, exist_ok=True)
        for name, shape, kind in (
            (path, (len(shards), vae.config.latent_channels, side, side), np.float16),
            (done, (len(shards),), np.uint8),
        ):
            if not name.exists():
                np.lib.format.open_memmap(name, mode="w+", dtype=kind, shape=shape)
    kept, finished = np.load(path, mmap_mode="r+"), np.load(done, mmap_mode="r+")
    mine = range(process.process_index, len(shards), process.num_processes)
    own = [number for number in mine if not finished[number]]
    if own:
        sys.stderr.write(f"{len(own)} pictures to latents of {resolution} pixels, once\n")
        vae.to(process.device)
    for begin in range(0, len(own), BATCH):
        numbers = own[begin : begin + BATCH]
        images = resized(shards.__getitems__(numbers).images, resolution).to(process.device)
        # the middle of the distribution: what its noise adds is far below what training adds
        kept[numbers] = (vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor).cpu().numpy()
        kept.flush()
        finished[numbers] = 1
    vae.to("cpu")
    process.wait_for_everyone()
    return path


def resized(images: Tensor, resolution: int) -> Tensor:
    """Square pictures (B, 3, S, S) in [0, 1] at another size."""
    if images.shape[-1] == resolution:
        return images
    return F.interpolate(images, (resolution, resolution), mode="bicubic", antialias=True).clamp(0, 1)


def _fingerprint(shards: ShardSource) -> int:
    """Of the pictures: names, sizes and places in the shards."""
    names = [(path.name, path.stat().st_size) for path in shards.paths]
    return zlib.crc32(f"{names} {shards.entries}".encode())
