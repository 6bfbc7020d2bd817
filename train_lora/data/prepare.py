"""Labelled pictures to an AUText data set: ``python -m train_lora data train_lora/configs/bp4d.toml``.

Three steps, each of which goes on where it was after a kill: the labels become a list of pictures, the list is looked
at in chunks, and the chunks become shards. Memory stays flat: a list line, a chunk, a shard at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auface_diffusers.facs import units
from train_lora.data.data_card import CARD, README, markdown, summary
from train_lora.data.engine import spread
from train_lora.data.face_crops import cropper
from train_lora.data.items import Listed, list_items
from train_lora.data.look import ITEMS, PLAN, WORK, chunk_name, make_chunk, read_plan
from train_lora.data.pack import Packed, pack, write_text
from train_lora.data.pairs import estimator
from train_lora.data.prepare_config import PrepareConfig, images_folder, source_name
from train_lora.data.shards import DATA_FILE
from train_lora.data.split import SPLITS

HERE = ("out", "workers", "engine")
"""Settings that may differ between two calls for the same folder."""
JSON_BYTES = 9000
"""Of a label with its texts, roughly."""


def prepare(config: PrepareConfig, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Make the data set, or what is missing of it; return counts.

    Args:
        config: what to make.
        progress: called with (chunks there, all chunks).

    Raises:
        ValueError: for what is wrong as a whole, before any picture is looked at: labels, pictures, the finder, too
            few subjects, one class only, no room; another configuration in ``out``; or nothing left at the end.
        ModuleNotFoundError: engine "ray" without ray.
        OSError: a disk that is full, or may not be written to.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    claim = _claim(config)
    _check_claim(out, claim)
    if (out / CARD).exists():
        shutil.rmtree(out / WORK, ignore_errors=True)  # of a run that was killed after its last step
        return _result(out, json.loads((out / CARD).read_text(encoding="utf-8")), 0)
    source = source_name(config)
    images_folder(config, source)
    cropper(config)  # raises if the finder cannot run
    if source == "estimator" or config.quality.yaw or config.quality.pitch:
        estimator()
    listed = _list(config, out, claim)
    missing = [n for n in range(len(listed.offsets)) if not (out / WORK / chunk_name(n)).exists()]
    made = len(listed.offsets) - len(missing)
    for _ in spread(make_chunk, config, missing, config.workers, config.engine):
        made += 1
        if progress:
            progress(made, len(listed.offsets))
    packed = pack(config, len(listed.offsets), listed.source)
    if not packed.tallies["train"].pictures:
        raise ValueError(f"no training picture is left in {out}: {_reasons(packed)}; see {out / 'skipped.jsonl'}")
    card = summary(config, listed, packed)
    write_text(out / README, markdown(card))
    write_text(out / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")  # last: it says that all is there
    shutil.rmtree(out / WORK)
    return _result(out, card, len(missing))


def _list(config: PrepareConfig, out: Path, claim: str) -> Listed:
    """The list, made or found."""
    work = out / WORK
    work.mkdir(exist_ok=True)
    if not (work / PLAN).exists():
        listed = list_items(config, work / ITEMS)
        _check_room(config, out, listed.count)
        write_text(out / DATA_FILE, claim)  # only now: a configuration that cannot be used claims nothing
        write_text(work / PLAN, json.dumps(asdict(listed)))
    return read_plan(out)


def _claim(config: PrepareConfig) -> str:
    content = {key: value for key, value in asdict(config).items() if key not in HERE}
    return json.dumps({**content, "channels": list(units.channels)}, indent=1, sort_keys=True) + "\n"


def _check_claim(out: Path, claim: str) -> None:
    file = out / DATA_FILE
    if file.exists() and file.read_text(encoding="utf-8") != claim:
        raise ValueError(f"{out} holds data of another configuration ({file}): name another folder, or delete it")


def _check_room(config: PrepareConfig, out: Path, count: int) -> None:
    pixels = config.size * config.size * (1.6 if config.image_format == "png" else 0.3)
    needed = 2 * count * (pixels + JSON_BYTES)  # chunks stay until the shards are there
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(
            f"{out}: {count} pictures need about {needed / 1e9:.1f} GB while they are made, {free / 1e9:.1f} GB are "
            "free: name another disk, or lower size"
        )


def _reasons(packed: Packed) -> str:
    ordered = sorted(packed.skipped.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{reason} {count}" for reason, count in ordered) or "every one is held out"


def _result(out: Path, card: dict[str, Any], made: int) -> dict[str, Any]:
    return {
        "out": str(out),
        "source": card["source"],
        "origin": card["origin"],
        "chunks_made_now": made,
        **card["pictures"],
        **{name: card["splits"][name]["pictures"] if name in card["splits"] else 0 for name in SPLITS},
    }
