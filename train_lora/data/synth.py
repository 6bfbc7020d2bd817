"""Made faces with exact labels, as WebDataset shards: ``python -m train_lora synth train_lora/configs/synth.toml``.

A shard depends on the configuration and its number alone: shards can be made in any order, by any number of workers,
again after a kill, and are the same bytes on one platform. The face shows the effective score, as the texts do.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auface_diffusers.anatomy import Camera, HeadModel, project_points, render, sample_appearances, sample_identity
from auface_diffusers.facs import AUSet, describe, resolve, units
from auface_diffusers.facs.describe import STYLES
from train_lora.data.engine import ENGINES, spread
from train_lora.data.sample_aus import SHARES, sample_aus
from train_lora.data.shards import Sample, shard_name, write_shard

BATCH = 8
FORMATS = ("webp", "png")
CONFIG_FILE = "synth.json"
POSE = (20.0, 12.0, 8.0)
"""Standard deviations of head yaw, pitch and roll, degrees; cut at two."""
GAZE = (10.0, 6.0)
"""Standard deviations of gaze yaw and pitch, degrees; cut at two."""


@dataclass(frozen=True)
class SynthConfig:
    """What to make.

    Attributes:
        out: folder; ``shards`` files of ``per_shard`` samples go there.
        seed: decides everything. people: how many different persons; a person keeps skin, hair and eyes.
        first_person: number of the first of them; sets that are to share nobody need ranges of their own.
        size: pixels, 64..1024. framing: one of ``anatomy.camera.FRAMINGS``.
        image_format: "webp" (lossy, quality 92) or "png".
        texts: wordings of each sample beside the canonical one.
        posed: share of samples with a turned head and gaze.
        shares: share of each kind of score, see `sample_aus`.
        workers: processes of engine "local". engine: "local", or "ray" where it is installed: one task a shard, over
            the machines of the cluster that ``RAY_ADDRESS`` names (each with this package and ``out`` on a shared
            disk), or over this machine's cores.
    """

    out: str
    shards: int = 8
    per_shard: int = 256
    seed: int = 0
    people: int = 5000
    first_person: int = 0
    size: int = 256
    framing: str = "portrait"
    image_format: str = "webp"
    texts: int = 3
    posed: float = 0.5
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    workers: int = 1
    engine: str = "local"

    def __post_init__(self) -> None:
        if min(self.shards, self.per_shard, self.people, self.workers) < 1 or min(self.texts, self.first_person) < 0:
            raise ValueError("shards, per_shard, people, workers >= 1 and texts, first_person >= 0 are needed")
        if not 64 <= self.size <= 1024 or not 0 <= self.posed <= 1:
            raise ValueError(f"size {self.size}: 64..1024 is needed, and posed {self.posed}: 0..1")
        if self.image_format not in FORMATS or self.engine not in ENGINES:
            raise ValueError(f"image_format is one of {', '.join(FORMATS)}, engine one of {', '.join(ENGINES)}")
        Camera.framed(self.framing)  # raises for an unknown name
        sample_aus(random.Random(0), self.shares)  # raises for shares that cannot be


@dataclass(frozen=True)
class Plan:
    """What one sample will show, before it is drawn."""

    key: str
    kind: str
    aus: AUSet
    person: int
    scene: int
    pose: tuple[float, ...]
    gaze: tuple[float, ...]


def plan(config: SynthConfig, number: int) -> Plan:
    """Sample ``number`` of a run."""
    rng = random.Random(f"{config.seed} {number}")
    kind, aus = sample_aus(rng, config.shares)
    posed = rng.random() < config.posed
    angles = [max(-2.0, min(2.0, rng.gauss(0, 1))) * spread if posed else 0.0 for spread in (*POSE, *GAZE)]
    return Plan(
        key=f"{number:09d}",
        kind=kind,
        aus=aus,
        person=config.first_person + rng.randrange(config.people),
        scene=rng.randrange(2**31),
        pose=tuple(round(angle, 2) for angle in angles[:3]),
        gaze=tuple(round(angle, 2) for angle in angles[3:]),
    )


def make_samples(config: SynthConfig, first: int, count: int) -> Iterator[tuple[str, Sample]]:
    """Draw samples ``first`` to ``first + count``, in batches."""
    return draw_samples(config, range(first, first + count))


def draw_samples(config: SynthConfig, numbers: Sequence[int]) -> Iterator[tuple[str, Sample]]:
    """Draw the samples of these numbers, in batches; a pixel may be rounded otherwise beside other faces."""
    head = HeadModel.from_default()
    camera = Camera.framed(config.framing, config.size)
    for start in range(0, len(numbers), BATCH):
        plans = [plan(config, number) for number in numbers[start : start + BATCH]]
        yield from zip([p.key for p in plans], _draw(config, head, camera, plans), strict=True)


def _draw(config: SynthConfig, head: HeadModel, camera: Camera, plans: list[Plan]) -> list[Sample]:
    codes = torch.stack([sample_identity(p.person) for p in plans])
    aus = [resolve(p.aus).effective for p in plans]  # what the texts say: units that cannot be seen are not drawn
    with torch.no_grad():
        pose, gaze = torch.tensor([p.pose for p in plans]), torch.tensor([p.gaze for p in plans])
        mesh = head(codes, aus, pose=pose, gaze=gaze)
        looks = [sample_appearances(p.person, p.scene, 1)[0] for p in plans]
        drawn = render(mesh, looks, camera, head.levels(aus))
        points = {
            name: project_points(value, looks, camera)[..., :2]
            for name, value in (("ibug68", mesh.landmarks68), ("mesh468", mesh.landmarks468), ("pupils", mesh.pupils))
        }
    samples = []
    for row, p in enumerate(plans):
        label = _label(config, p)
        label["identity"] = [round(x, 4) for x in codes[row].tolist()]
        label["attributes"] = looks[row].to_dict()
        label["landmarks"] = {
            name: [[round(x, 2) for x in xy] for xy in value[row].tolist()] for name, value in points.items()
        }
        samples.append(
            {
                config.image_format: encode(drawn.image[row], config.image_format),
                "json": json.dumps(label, ensure_ascii=False).encode(),
                "parts.png": _png(drawn.parts[row].numpy()),
            }
        )
    return samples


def _label(config: SynthConfig, p: Plan) -> dict[str, Any]:
    resolution = resolve(p.aus)
    texts = {style: describe(p.aus, style).text for style in STYLES}
    varied = [describe(p.aus, seed=p.scene + number).text for number in range(config.texts)]
    return {
        "kind": p.kind,
        "aus": p.aus.format(),
        "effective": resolution.effective.format(),
        "levels": dict(zip(units.channels, p.aus.vector(), strict=True)),
        "effective_levels": dict(zip(units.channels, resolution.effective.vector(), strict=True)),
        "rules": list(dict.fromkeys(resolution.rule_ids)),
        "texts": {**texts, "varied": varied},
        "person": p.person,
        "scene": p.scene,
        "pose": p.pose,
        "gaze": p.gaze,
        "size": config.size,
        "framing": config.framing,
    }


def encode(image: Tensor, image_format: str) -> bytes:
    """An image (3, H, W) in [0, 1] as a file."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    data = io.BytesIO()
    options = {"quality": 92, "method": 4} if image_format == "webp" else {}
    Image.fromarray(pixels).save(data, image_format.upper(), **options)
    return data.getvalue()


def _png(labels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(labels).save(data, "PNG")
    return data.getvalue()


# --- the run ---------------------------------------------------------------------------------------------------------


def synth(config: SynthConfig, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Make the shards that are not there yet; return counts.

    Args:
        config: what to make.
        progress: called with (shards there, all shards).

    Raises:
        ValueError: the folder holds shards of another configuration.
        ModuleNotFoundError: engine "ray" without ray.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config)
    missing = [number for number in range(config.shards) if not (out / shard_name(number)).exists()]
    made = config.shards - len(missing)
    for _ in spread(_make_shard, config, missing, config.workers, config.engine):
        made += 1
        if progress:
            progress(made, config.shards)
    kinds = Counter(plan(config, number).kind for number in range(config.shards * config.per_shard))
    return {
        "out": str(out),
        "shards": config.shards,
        "made_now": len(missing),
        "samples": config.shards * config.per_shard,
        "kinds": dict(kinds),
    }


def _claim(out: Path, config: SynthConfig) -> None:
    """Write what the folder is made from, or check that it is the same."""
    content = {k: v for k, v in asdict(config).items() if k not in ("out", "workers", "engine", "shards")}
    content["channels"] = list(units.channels)
    content["head"] = hashlib.sha256(HeadModel.from_default().asset.vertices.numpy().tobytes()).hexdigest()
    text = json.dumps(content, indent=1, sort_keys=True)
    file = out / CONFIG_FILE
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds shards of another configuration ({file}): name another folder, or delete it")
    if not file.exists():
        file.write_text(text, encoding="utf-8")


def _make_shard(config: SynthConfig, number: int) -> int:
    torch.set_num_threads(1 if config.workers > 1 else torch.get_num_threads())
    path = Path(config.out) / shard_name(number)
    write_shard(path, make_samples(config, number * config.per_shard, config.per_shard))
    return number
