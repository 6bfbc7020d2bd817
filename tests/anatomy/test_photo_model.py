"""A landmark model that never saw our faces finds them, and sees each unit move what it moves (`make test-all`)."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from auface_diffusers.anatomy import HeadModel, render_faces
from auface_diffusers.facs import AUSet
from train_lora.data.sample_aus import sample_aus

pytestmark = pytest.mark.slow
ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "photo-model"
PEOPLE = list(range(900, 912))
LEVELS = "BCDE"


@pytest.fixture(scope="session")
def landmarks(tmp_path_factory):
    """Function from pictures (N, 3, H, W) in [0, 1] to points (N, 478, 2), by mediapipe 0.10.14."""
    python = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (ENVIRONMENT / "ready").exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", "mediapipe==0.10.14"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            if os.environ.get("CI"):
                raise ConnectionError(done.stderr)
            pytest.skip(
                f"mediapipe 0.10.14 cannot be installed on Python {sys.version.split()[0]}: {done.stderr[-200:]}"
            )
        (ENVIRONMENT / "ready").touch()
    folder = tmp_path_factory.mktemp("photo")

    def find(images):
        pictures = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        np.save(folder / "pictures.npy", pictures)
        script = Path(__file__).with_name("photo_model.py")
        subprocess.run(
            [python, script, folder / "pictures.npy", folder / "points.npy"],
            check=True,
            capture_output=True,
            timeout=900,
        )
        return np.load(folder / "points.npy")

    return find


@pytest.fixture(scope="session")
def head():
    return HeadModel.from_default()


def test_it_finds_our_faces(landmarks, head):
    import random

    import torch

    rng = random.Random(0)
    pictures = []
    for start in range(0, 500, 20):
        people = list(range(2000 + start, 2020 + start))
        scores = [sample_aus(rng)[1] for _ in people]
        pictures.append(render_faces(head, scores, people, 256, start))
    points = landmarks(torch.cat(pictures))
    assert np.isfinite(points[:, 0, 0]).mean() >= 0.99


def measures(points):
    """Lengths (N,) by name, in units of the distance between the outer eye corners; larger is more of what it says."""
    eye = np.linalg.norm(points[:, 263] - points[:, 33], axis=1)

    def gap(a, b):
        return np.linalg.norm(points[:, a] - points[:, b], axis=1) / eye

    line = (points[:, 33] + points[:, 263]) / 2

    def above(a, b):  # height of two points over the line of the eyes
        return (line[:, 1] - (points[:, a, 1] + points[:, b, 1]) / 2) / eye

    return {
        "mouth opening": gap(13, 14),
        "mouth width": gap(61, 291),
        "lip corner height": above(61, 291) - above(0, 17),
        "inner brow height": above(107, 336),
        "outer brow height": above(70, 300),
        "eye opening": (gap(159, 145) + gap(386, 374)) / 2,
    }


MOVES = [
    ("1", "inner brow height", 1), ("2", "outer brow height", 1), ("4", "inner brow height", -1),
    ("5", "eye opening", 1), ("7", "eye opening", -1), ("43", "eye opening", -1),
    ("12", "lip corner height", 1), ("12", "mouth width", 1), ("15", "lip corner height", -1),
    ("18", "mouth width", -1), ("20", "mouth width", 1), ("25", "mouth opening", 1), ("26", "mouth opening", 1),
    ("27", "mouth opening", 1),
]  # fmt: skip


@pytest.fixture(scope="session")
def seen(landmarks, head):
    """Measures by unit, (levels + 1, people): the first row is the neutral face."""
    import torch

    codes = sorted({code for code, _, _ in MOVES})
    scores = [AUSet(), *(AUSet({code: level}) for code in codes for level in LEVELS)]
    pictures = [render_faces(head, score, PEOPLE, 256, 1, background="plain") for score in scores]
    found = measures(landmarks(torch.cat(pictures)))
    rows = {name: value.reshape(len(scores), len(PEOPLE)) for name, value in found.items()}
    return {
        code: {name: value[[0, *range(1 + 4 * i, 5 + 4 * i)]] for name, value in rows.items()}
        for i, code in enumerate(codes)
    }


@pytest.mark.parametrize(("code", "name", "way"), MOVES)
def test_units_move_the_right_way_with_level(seen, code, name, way):
    values = seen[code][name] * way
    change = np.nanmean(values[-1] - values[0])
    assert change > 0, f"{code}E changes {name} by {way * change:.3f} eye distances"
    steps = np.diff(np.nanmean(values, 1))
    assert (steps > -0.15 * change).all(), f"{code} at 0, B..E: {np.nanmean(values, 1).round(3)}"
    assert np.nanmean(values[-1] > values[0]) >= 0.9, "for nine people in ten"


# --- faces that the embedded generator draws -------------------------------------------------------------------------

DRAWN = {"12E": ("lip corner height", 1), "27E": ("mouth opening", 1), "43E": ("eye opening", -1)}


@pytest.fixture(scope="module")
def drawn(landmarks):
    """Points (people, 478, 2) by score, of faces that the embedded pipeline drew, at twice their size."""
    from torch.nn.functional import interpolate

    from auface_diffusers import VQAUFacePipeline
    from auface_diffusers.models.au_estimator import WEIGHTS

    if not (WEIGHTS / "default").exists():
        pytest.skip("no embedded weights in this checkout")
    pipe = VQAUFacePipeline.from_default()
    pipe.set_progress_bar_config(disable=True)
    codes = ["0", *DRAWN]
    scores = [code for code in codes for _ in PEOPLE]
    images = pipe(scores, identity=PEOPLE * len(codes), seed=PEOPLE * len(codes), output_type="pt").images
    found = landmarks(interpolate(images, scale_factor=2, mode="bicubic").clamp(0, 1))
    return dict(zip(codes, found.reshape(len(codes), len(PEOPLE), 478, 2), strict=True))


def test_it_finds_drawn_faces(drawn):
    seen = np.concatenate(list(drawn.values()))
    assert np.isfinite(seen[:, 0, 0]).mean() >= 0.95


@pytest.mark.parametrize("code", DRAWN)
def test_units_of_drawn_faces_move_the_right_way(drawn, code):
    name, way = DRAWN[code]
    change = (measures(drawn[code])[name] - measures(drawn["0"])[name]) * way
    assert np.nanmean(change > 0) >= 0.8, f"{code} changes {name} by {change.round(3)}"
