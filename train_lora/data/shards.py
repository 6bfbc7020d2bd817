"""WebDataset shards: tar files of samples, each a few files with one key. Written beside their place, then moved."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Sample = Mapping[str, bytes]
"""File contents by ending, such as ``{"json": b"...", "webp": b"..."}``."""

DATA_FILE = "data.json"
"""Beside the shards of pictures (`train_lora.data.prepare`): the channels of their levels."""
REPEATS = "repeats.npy"
"""Beside training shards of pictures: how often each comes in an epoch, see `train_lora.data.split.repeats`."""


def shard_name(number: int) -> str:
    """``"faces-000012.tar"``."""
    return f"faces-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[tuple[str, Sample]]) -> int:
    """Write (key, sample) pairs to a tar file; return how many.

    The same samples give the same bytes. Nothing appears under ``path`` unless all of it was written: after a kill
    or a full disk there is at most a ``.part`` file, which the next attempt replaces.
    """
    part = path.with_name(path.name + ".part")
    count = 0
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for key, sample in samples:
                    for ending in sorted(sample):
                        entry = tarfile.TarInfo(f"{key}.{ending}")
                        entry.size = len(sample[ending])
                        tar.addfile(entry, io.BytesIO(sample[ending]))
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # whatever stops it, also Ctrl-C: no half shard stays
        part.unlink(missing_ok=True)
        raise
    return count


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, sample) pairs of a shard, in order. Raises `ValueError` naming the file if it is damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            key, sample = "", dict[str, bytes]()
            for entry in tar:
                file = tar.extractfile(entry)
                name, _, ending = entry.name.partition(".")
                if name != key and sample:
                    yield key, sample
                    sample = {}
                key = name
                sample[ending] = file.read() if file else b""
            if sample:
                yield key, sample
    except tarfile.TarError as error:
        raise ValueError(f"shard {path} is damaged ({error}): delete it and run the command again") from None
