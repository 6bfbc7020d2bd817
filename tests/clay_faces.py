"""Faces that look as if made of clay, as shards: what the style adapter of the acceptance test learns from.

``python tests/clay_faces.py FOLDER [faces] [size]`` renders people that no training of the embedded models has seen,
and paints them over: one warm hue, more contrast, a plain background.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from train_lora.data.shards import read_shard, shard_name, write_shard
from train_lora.data.synth import CONFIG_FILE, SynthConfig, synth

DARK, LIGHT = np.array([0.16, 0.07, 0.04]), np.array([0.93, 0.72, 0.58])
GROUND = np.array([0.80, 0.78, 0.74])
HUE = 0.6
"""Share of the own colour that shows through."""


def clay(image, parts):
    """(H, W, 3) uint8 and part numbers (H, W) to the same face in clay."""
    colour = image.astype(np.float64) / 255
    light = colour @ np.array([0.299, 0.587, 0.114])
    strong = ((light - 0.5) * 1.3 + 0.55).clip(0, 1)[..., None]
    painted = DARK + (LIGHT - DARK) * strong + (colour - light[..., None]) * HUE
    painted = np.where((parts > 0)[..., None], painted, GROUND)
    return (painted.clip(0, 1) * 255).round().astype(np.uint8)


def clay_shards(folder, faces=24, size=128, people=8, first_person=60_000):
    """Shards of ``faces`` clay faces of ``people`` persons in a folder; returns it."""
    config = SynthConfig(
        out=str(folder / "plain"),
        shards=1,
        per_shard=faces,
        seed=5,
        people=people,
        first_person=first_person,
        size=size,
        framing="face",
        image_format="png",
        texts=2,
    )
    synth(config)
    place = folder / "clay"
    place.mkdir(exist_ok=True)
    samples = []
    for key, sample in read_shard(folder / "plain" / shard_name(0)):
        image, parts = (np.asarray(Image.open(io.BytesIO(sample[name]))) for name in ("png", "parts.png"))
        data = io.BytesIO()
        Image.fromarray(clay(image, parts)).save(data, "PNG")
        samples.append((key, {**sample, "png": data.getvalue()}))
    write_shard(place / shard_name(0), samples)
    told = json.loads((folder / "plain" / CONFIG_FILE).read_text())
    (place / CONFIG_FILE).write_text(json.dumps({**told, "style": "clay"}))
    return place


if __name__ == "__main__":
    clay_shards(Path(sys.argv[1]), *(int(value) for value in sys.argv[2:]))
