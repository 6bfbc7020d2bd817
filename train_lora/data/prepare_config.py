"""What ``python -m train_lora data CONFIG.toml`` is told, and where the pictures of known data sets lie."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from auface_diffusers.facs.readers import get_source, guess_source, sources
from train_lora.data.engine import ENGINES
from train_lora.data.quality import QualityConfig
from train_lora.data.split import SplitConfig
from train_lora.data.synth import FORMATS

PLAIN = ("sidecar", "estimator")
"""Sources that are a folder of pictures: beside each a .txt with its codes, or nothing."""
UNNAMED = ("unknown", "absent")
SUBJECTS = ("label", "folder", "picture")
FACES = ("find", "cropped")
MIN_SIZE, MAX_SIZE = 32, 1024


class Layout(NamedTuple):
    """Where a data set keeps its pictures.

    Attributes:
        folders: names that are looked for beside the labels; "" is the folder of the labels itself.
        pattern: of the picture of an annotation, see `PrepareConfig.pattern`.
    """

    folders: tuple[str, ...]
    pattern: str


LAYOUTS = {
    "bp4d": Layout(("Sequences(2D+3D)", "2D+3D", "2D"), "{image}"),
    "bp4d+": Layout(("2D+3D", "2D"), "{image}"),
    # DISFA comes as videos, labels count frames from 1: ffmpeg -i LeftVideoSN001_comp.avi Images/SN001/%d.png
    "disfa": Layout(("Images",), "{subject}/{frame}.png"),
    "disfa+": Layout(("Images",), "{image}"),
    "ck+": Layout(("cohn-kanade-images",), "{subject}/{task}/{subject}_{task}_{frame}.png"),
    "unbc": Layout(("Images",), "{subject}/{task}/{frame}.png"),
}
"""Of sources that are folder trees. Tables name their pictures in a column, or `PrepareConfig.pattern` does."""


@dataclass(frozen=True)
class PrepareConfig:
    """What to make, and of what.

    Attributes:
        out: folder; train, validation and test come below it, with the card.
        labels: folder of a data set or file of annotations; empty for the sources `PLAIN`.
        source: name out of ``facs.readers.sources()``, or one of `PLAIN`, or "auto".
        images: folder of the pictures; empty looks for it beside the labels, see `LAYOUTS`.
        pattern: of a picture's path below ``images``, with {subject}, {task}, {frame}, {face} and {image} of the
            annotation; a number in it need not have the zeros that the file has. Empty is the source's own.
        offset: added to the number that names a picture, for copies that count from elsewhere.
        every: takes every n-th annotation of a subject and task.
        threshold: see ``facs.readers``; 0 is the source's own.
        unnamed: what a unit is that the labels never speak of: "unknown", or "absent" if they name all that is there.
        subjects: who is seen: "label" as the labels say, "folder" the first folder of the picture's path, "picture"
            nobody knows: each picture counts as a person, and splits may share people.
        faces: "find" looks for the face and crops it; "cropped": pictures are square crops already.
        finder: "mediapipe", or module:name of your own, see `train_lora.data.face_crops.PointFinder`.
        task: model of "mediapipe", where the package that has it is not installed.
        sure: of source "estimator": least calibrated presence of a unit that is taken for there; below 1 - sure it is
            absent, and between unknown.
        size: pixels of the crop. image_format: "webp" or "png". texts: wordings beside the canonical one.
        balance: units on fewer than this share of the training pictures are repeated, 0 for none; see `split.repeats`.
        licence: a line for the card. per_shard: samples. seed: of splits and wordings.
        workers, engine: see `engine.spread`.
        quality, split: tables of their own.
    """

    out: str
    labels: str = ""
    source: str = "auto"
    images: str = ""
    pattern: str = ""
    offset: int = 0
    every: int = 1
    threshold: float = 0.0
    unnamed: str = "unknown"
    subjects: str = "label"
    faces: str = "find"
    finder: str = "mediapipe"
    task: str = ""
    sure: float = 0.8
    size: int = 128
    image_format: str = "webp"
    texts: int = 3
    balance: float = 0.2
    licence: str = ""
    per_shard: int = 512
    seed: int = 0
    workers: int = 1
    engine: str = "local"
    quality: QualityConfig = field(default_factory=QualityConfig)
    split: SplitConfig = field(default_factory=SplitConfig)

    def __post_init__(self) -> None:
        known = ("auto", *sources(), *PLAIN)
        for name, allowed in (
            ("source", known),
            ("unnamed", UNNAMED),
            ("subjects", SUBJECTS),
            ("faces", FACES),
            ("image_format", FORMATS),
            ("engine", ENGINES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: one of {', '.join(allowed)}")
        if min(self.per_shard, self.workers, self.every) < 1 or min(self.texts, self.threshold) < 0:
            raise ValueError("per_shard, workers, every >= 1 and texts, threshold >= 0 are needed")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ValueError(f"size {self.size}: {MIN_SIZE}..{MAX_SIZE} is needed")
        if not (0.5 < self.sure < 1 and 0 <= self.balance < 1):
            raise ValueError(f"sure {self.sure:g}: 0.5..1 is needed, and balance {self.balance:g}: 0..1")
        if self.finder != "mediapipe" and not _names_an_object(self.finder):
            raise ValueError(f'finder {self.finder!r}: "mediapipe", or module:name')
        fields = {name for _, name, _, _ in string.Formatter().parse(self.pattern) if name is not None}
        if fields - set(PATTERN_FIELDS):
            raise ValueError(f"pattern {self.pattern!r}: allowed are {', '.join(f'{{{x}}}' for x in PATTERN_FIELDS)}")
        self._check_labels()

    def _check_labels(self) -> None:
        if self.source in PLAIN:
            if self.labels or not self.images:
                raise ValueError(f"source {self.source!r} reads the folder images= and no labels=")
        elif not self.labels:
            raise ValueError(f"labels= is needed, or source = one of {', '.join(PLAIN)} for a folder of pictures")


PATTERN_FIELDS = ("subject", "task", "frame", "face", "image")


def _names_an_object(finder: str) -> bool:
    module, colon, name = finder.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def source_name(config: PrepareConfig) -> str:
    """The source, told from the labels where it is "auto". Raises `ReaderError` where it cannot be."""
    if config.source in PLAIN:
        return config.source
    return guess_source(Path(config.labels)) if config.source == "auto" else get_source(config.source).name


def images_folder(config: PrepareConfig, source: str) -> Path:
    """Where the pictures are.

    Raises:
        ValueError: ``images`` is no folder, or none was found beside the labels.
    """
    if config.images:
        if not Path(config.images).is_dir():
            raise ValueError(f"images = {config.images!r} is no folder")
        return Path(config.images)
    labels = Path(config.labels)
    near = [labels, *labels.absolute().parents[:2]]
    names = LAYOUTS[source].folders if source in LAYOUTS else ()
    for folder in near:
        for name in names:
            if (folder / name).is_dir():
                return folder / name
    if source not in LAYOUTS:  # a table beside its pictures
        return labels.absolute().parent
    raise ValueError(
        f"{labels}: no folder {' or '.join(names)} with the pictures of {source} beside the labels: give images="
    )


def pattern(config: PrepareConfig, source: str) -> str:
    """The pattern of pictures."""
    return config.pattern or (LAYOUTS[source].pattern if source in LAYOUTS else "{image}")
