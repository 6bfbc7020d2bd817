"""Chunks to shards: duplicates go, each split gets full shards in order, and everything is counted on the way."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from auface_diffusers.facs import units
from auface_diffusers.facs.levels import grade
from train_lora.data.items import code_of
from train_lora.data.look import LOOK, SKIP, WORK, chunk_name
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.quality import SAME, THUMB_SIDE
from train_lora.data.shards import DATA_FILE, REPEATS, Sample, read_shard, shard_name, write_shard
from train_lora.data.split import SPLITS, repeats

SKIPPED = "skipped.jsonl"


class Picture(NamedTuple):
    """A picture that came through the chunks."""

    key: str
    sample: Sample
    label: dict[str, Any]
    split: str


class Tally:
    """Counts of one split: pictures, subjects, units by level, rules."""

    def __init__(self) -> None:
        self.pictures = 0
        self.subjects: set[str] = set()
        self.present: dict[str, Counter[str]] = {}
        self.absent: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.origins: Counter[str] = Counter()
        self.sets: dict[tuple[str, ...], int] = {}
        self.rows: list[int] = []
        """Which of ``sets`` each picture shows: few are different."""

    def add(self, label: dict[str, Any]) -> None:
        """Count a sample."""
        self.pictures += 1
        self.subjects.add(label["subject"])
        self.rules.update(label["rules"])
        self.origins[label["origin"]] += 1
        unscored = set(label["unscored"])
        seen: dict[str, list[tuple[str, float]]] = {}
        for name, level in label["effective_levels"].items():
            if level is not None:
                seen.setdefault(code_of(name), []).append((name, level))
        codes = []
        for code, parts in seen.items():
            top = max(level for _, level in parts)
            if top <= 0:
                self.absent[code] += 1
                continue
            codes.append(code)
            guessed = all(name in unscored for name, level in parts if level > 0)
            told = "unscored" if guessed else "ABCDE"[grade(top) - 1]
            self.present.setdefault(code, Counter())[told] += 1
            if len({level for _, level in parts}) > 1:
                self.present[code]["uneven"] += 1
        row = tuple(sorted(codes))
        self.rows.append(self.sets.setdefault(row, len(self.sets)))

    def codes(self) -> list[tuple[str, ...]]:
        """Codes of the units of each picture."""
        every = list(self.sets)
        return [every[row] for row in self.rows]


class Packed(NamedTuple):
    """What came of the chunks."""

    tallies: dict[str, Tally]
    shards: dict[str, int]
    skipped: dict[str, int]
    factors: np.ndarray
    """How often each training picture comes in an epoch, see `split.repeats`."""


def pack(config: PrepareConfig, chunks: int, source: str) -> Packed:
    """Write the shards of every split; a split counts as there when its `DATA_FILE` is, which is last.

    The same call after a kill writes the same files again.
    """
    out = Path(config.out)
    tallies = {split: Tally() for split in SPLITS}
    shards = dict.fromkeys(SPLITS, 0)
    skipped: Counter[str] = Counter()
    part = out / f"{SKIPPED}.part"
    with part.open("w", encoding="utf-8") as log:
        kept = _without_duplicates(_pictures(out, chunks, skipped, log), config.quality.duplicates, skipped, log)
        for split, group in groupby(kept, key=lambda picture: picture.split):
            folder = out / split
            folder.mkdir(exist_ok=True)
            while some := list(islice(group, config.per_shard)):
                write_shard(folder / shard_name(shards[split]), ((one.key, one.sample) for one in some))
                shards[split] += 1
                for one in some:
                    tallies[split].add(one.label)
    os.replace(part, out / SKIPPED)
    factors = repeats(tallies["train"].codes(), config.balance)
    for split in SPLITS:
        if shards[split]:
            _finish(config, out / split, source, tallies[split], factors if split == "train" else None)
    return Packed(tallies, shards, dict(skipped), factors)


def _finish(config: PrepareConfig, folder: Path, source: str, tally: Tally, factors: np.ndarray | None) -> None:
    if factors is not None:
        with (folder / f"{REPEATS}.part").open("wb") as file:
            np.save(file, factors)
        os.replace(folder / f"{REPEATS}.part", folder / REPEATS)
    content = {
        "channels": list(units.channels),
        "pictures": tally.pictures,
        "source": source,
        "size": config.size,
        "image_format": config.image_format,
    }
    write_text(folder / DATA_FILE, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears when it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except BaseException:  # whatever stops it, also Ctrl-C: no half file stays
        part.unlink(missing_ok=True)
        raise


def _pictures(out: Path, chunks: int, skipped: Counter[str], log: TextIO) -> Iterator[Picture]:
    for number in range(chunks):
        for key, sample in read_shard(out / WORK / chunk_name(number)):
            if SKIP in sample:
                told = json.loads(sample[SKIP])
                skipped[told["reason"]] += 1
                log.write(json.dumps(told, ensure_ascii=False) + "\n")
            else:
                label = json.loads(sample["json"])
                yield Picture(key, sample, label, label["split"])


def _without_duplicates(
    pictures: Iterator[Picture], bits: int, skipped: Counter[str], log: TextIO
) -> Iterator[Picture]:
    seen = _Thumbs(bits)
    names: list[tuple[str, str]] = []
    for one in pictures:
        looks = one.sample[LOOK]
        twin = seen.find(int.from_bytes(looks[:8], "big"), np.frombuffer(looks[8:], np.uint8)) if bits else None
        if twin is None:
            if bits:
                names.append((one.label["picture"], one.label["aus"]))
            kept = {ending: content for ending, content in one.sample.items() if ending != LOOK}
            yield one._replace(sample=kept)
            continue
        picture, aus = names[twin]
        reason = "duplicate" if aus == one.label["aus"] else "duplicate with other labels"
        skipped[reason] += 1
        told = {"split": one.split, "picture": one.label["picture"], "reason": reason, "detail": f"as {picture}"}
        log.write(json.dumps(told, ensure_ascii=False) + "\n")


class _Thumbs:
    """Looks of the pictures so far, about 400 bytes each: the first of two that are alike stays.

    Two hashes that differ in fewer than n bits agree in one of n parts, so only those are compared.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.edges = [64 * part // bits for part in range(bits + 1)] if bits else []
        self.buckets: dict[tuple[int, int], list[int]] = {}
        self.hashes: list[int] = []
        self.thumbs = np.empty((256, THUMB_SIDE * THUMB_SIDE), np.uint8)

    def find(self, code: int, thumb: np.ndarray) -> int | None:
        """The number of a picture like this one; None, and it is added, if there is none."""
        keys = [
            (part, code >> low & (1 << (high - low)) - 1)
            for part, (low, high) in enumerate(zip(self.edges, self.edges[1:], strict=False))
        ]
        near = {row for key in keys for row in self.buckets.get(key, ()) if self._close(row, code)}
        if near:
            rows = np.array(sorted(near))
            apart = np.abs(self.thumbs[rows].astype(np.int16) - thumb).max(1)
            alike = rows[apart <= SAME]
            if len(alike):
                return int(alike[0])
        row = len(self.hashes)
        if row == len(self.thumbs):
            self.thumbs = np.concatenate([self.thumbs, np.empty_like(self.thumbs)])
        self.thumbs[row] = thumb
        self.hashes.append(code)
        for key in keys:
            self.buckets.setdefault(key, []).append(row)
        return None

    def _close(self, row: int, code: int) -> bool:
        return (self.hashes[row] ^ code).bit_count() < self.bits
