"""Miniature data sets in the formats of the real ones, with rendered faces for pictures."""

import csv
import functools
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from facs import reader_trees
from PIL import Image, PngImagePlugin

from auface_diffusers.anatomy import Camera, HeadModel, project_points, render, sample_appearances
from auface_diffusers.facs import AUSet
from train_lora.config import build
from train_lora.data.prepare import prepare
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.shards import read_shard

SIZE = 64
SCORES = ("0", "12E", "1C+2C", "4D", "6C+12D", "26D", "15C+17C", "43E")


@functools.lru_cache(maxsize=256)
def face(person, score, size=SIZE, framing="face", pose=(0.0, 0.0, 0.0)):
    """A rendered face, and its iBUG points (68, 2) in pixels."""
    head, camera = HeadModel.from_default(), Camera.framed(framing, size)
    looks = [sample_appearances(person, 0, 1)[0]]
    aus = [AUSet.parse(score)]
    with torch.no_grad():
        mesh = head(identity=[person], aus=aus, pose=[pose])
        image = render(mesh, looks, camera, head.levels(aus)).image[0]
        points = project_points(mesh.landmarks68, looks, camera)[0, :, :2].numpy()
    return Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)), points


def save(path, person, score, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    face(person, score, **options)[0].save(path, quality=95)
    return path


def encoded(person, score, ending="JPEG"):
    data = io.BytesIO()
    face(person, score)[0].save(data, ending, quality=95)
    return data.getvalue()


def photo(path, person, score, angle=0.0, size=200, **options):
    """A face in a larger picture, somewhere, turned; its points lie in the file, for `InfoFinder`."""
    image, points = face(person, score, size=size, framing="portrait", **options)
    canvas = Image.new("RGB", (320, 260), (90, 110, 130))
    canvas.paste(image, (70, 40))
    turned = canvas.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=(90, 110, 130))
    radians, middle = np.deg2rad(angle), np.array([160.0, 130.0])
    turn = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    moved = (points + (70, 40) - middle) @ turn.T + middle
    info = PngImagePlugin.PngInfo()
    info.add_text("faces", json.dumps([moved.tolist()]))
    path.parent.mkdir(parents=True, exist_ok=True)
    turned.save(path, pnginfo=info)
    return path, moved


class InfoFinder:
    """A finder for the tests: finds the points that `photo` has written into the file."""

    def __call__(self, image):
        return [np.array(points) for points in json.loads(image.info.get("faces", "[]"))]


FINDER = f"{__name__}:InfoFinder"


# --- trees -----------------------------------------------------------------------------------------------------------

BP4D_SHOWN = {  # what the pictures show that `reader_trees.bp4d` has labels of
    ("F001", "T1", 2440): (1, "6B+12E"),
    ("F001", "T1", 2441): (1, "12C"),
    ("F001", "T1", 2442): (1, "6C+10C"),
    ("F001", "T1", 2443): (1, "0"),
    ("M002", "T1", 7): (2, "4C"),
}


def bp4d(root):
    """BP4D with the file names of a copy that pads to five digits, which its labels do not."""
    reader_trees.bp4d(root)
    shown = {**BP4D_SHOWN, ("F001", "T10", 1): (1, "1C")}
    for (subject, task, frame), (person, score) in shown.items():
        save(root / "Sequences(2D+3D)" / subject / task / f"{frame:05d}.jpg", person, score)
    return root


def bp4d_plus(root):
    """BP4D+: zip files of a subject, in no order, pictures counted from 0 where the codes count from 1."""
    reader_trees.bp4d(root, "bp4d+")
    shown = {**BP4D_SHOWN, ("F001", "T6", 1): (1, "1C")}
    (root / "2D+3D").mkdir()
    for subject in ("F001", "M002"):
        mine = {key: value for key, value in shown.items() if key[0] == subject}
        with zipfile.ZipFile(root / "2D+3D" / f"{subject}.zip", "w") as file:
            for (_, task, frame), (person, score) in reversed(mine.items()):
                file.writestr(f"{subject}/{task}/{frame - 1:03d}.jpg", encoded(person, score))
                file.writestr(f"{subject}/{task}/{frame + 100}.jpg", encoded(7, "0"))  # frames without codes
            file.writestr(f"{subject}/T9/readme.txt", "no picture")
    return root


def disfa(root, frames=3):
    reader_trees.disfa(root, frames)
    for person, subject in enumerate(("SN001", "SN002")):
        for frame in range(1, frames + 1):
            save(root / "Images" / subject / f"{frame}.png", person, "0" if frame == 1 else f"12{'ABCDE'[frame - 2]}")
    return root


def disfa_plus(root):
    reader_trees.disfa_plus(root)
    for trial in ("A1_AU1_TrailNo_1", "A1_AU1_TrailNo_2"):
        for frame in ("000", "009", "010"):
            raised = trial.endswith("1") and frame == "010"
            save(root / "Images" / "SN001" / trial / f"{frame}.jpg", 3, "1C" if raised else "0")
    return root


def ck(root):
    reader_trees.ck(root)
    save(root / "cohn-kanade-images/S005/001/S005_001_00000011.png", 4, "9E+17C")
    save(root / "cohn-kanade-images/S010/002/S010_002_00000014.png", 5, "25C+43E")
    return root


def unbc(root):
    reader_trees.unbc(root)
    for frame, score in (("001", "0"), ("002", "6C+43E")):
        save(root / f"Images/042-ll042/ll042t1aaaff/ll042t1aaaff{frame}.png", 6, score)
    return root


def folder(root, people=4, scores=SCORES, sidecar=True, ending="png"):
    """A folder a person, a picture a score, and codes beside each."""
    for person in range(people):
        for number, score in enumerate(scores):
            path = save(root / f"p{person}" / f"{number}.{ending}", person, score)
            if sidecar:
                path.with_suffix(".txt").write_text(f"{score}\n")
    return root


def table(path, rows):
    """A CSV with the keys of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- running ---------------------------------------------------------------------------------------------------------

SETTINGS = {
    "faces": "cropped",
    "size": SIZE,
    "image_format": "png",
    "texts": 1,
    "quality": {"side": 0, "blur": 0.0, "yaw": 0.0, "pitch": 0.0, "duplicates": 0},
    "split": {"by": "none"},
}


def config(out, **values):
    """A configuration that leaves nothing out and holds nobody out, but for ``values``; tables are merged."""
    merged = dict(SETTINGS)
    for key, value in values.items():
        merged[key] = {**merged[key], **value} if isinstance(value, dict) else value
    return build(PrepareConfig, {"out": str(out), **merged}, "test")


def made(out, **values):
    """Run; return the result and the samples of each split, as (label, picture)."""
    result = prepare(config(out, **values))
    return result, {split: samples(Path(out) / split) for split in ("train", "validation", "test")}


def samples(split):
    found = []
    for path in sorted(split.glob("faces-*.tar")):
        for _, sample in read_shard(path):
            picture = next(sample[ending] for ending in ("png", "webp") if ending in sample)
            found.append((json.loads(sample["json"]), np.asarray(Image.open(io.BytesIO(picture)))))
    return found


def contents(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*")) if path.is_file()}
