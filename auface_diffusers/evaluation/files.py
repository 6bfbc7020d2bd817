"""Pictures from files before a detector: what was asked of each, what is seen in it, and AAAD of them all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from auface_diffusers.anatomy import Camera
from auface_diffusers.evaluation.faces import Wanted, pictures, rendered
from auface_diffusers.face_file import open_image, read_face
from auface_diffusers.facs import AUSet, read_text
from auface_diffusers.facs.units import channel_name
from auface_diffusers.metrics.detectors import AUDetector, Detections
from auface_diffusers.metrics.evaluate import ScoredFaces, Setting, evaluate
from auface_diffusers.metrics.suite import SuiteItem
from auface_diffusers.metrics.tally import agreement, overlap
from auface_diffusers.metrics.targets import MASKED, ON, World, spec_targets
from auface_diffusers.pictures import plain_rgb

BATCH = 32
RENDER_SIZE = 128
"""Pixels of the exact renders of the ceiling: what the embedded estimator reads."""
SEEN = 0.5
"""Probability from which a unit that was not asked for is named."""
MANIFEST_KEYS = {"image", "aus", "text", "item", "identity", "absent", "unknown"}


@dataclass(frozen=True)
class Entry:
    """One picture and what is asked of it.

    Attributes:
        image: its file. aus: the score. text: what was said, which then counts in its place (text mode), or None.
        item: pictures of one item are averaged before anything else; identity: items that come and go together.
        absent, unknown: codes that are known to be off, or not labelled.
    """

    image: Path
    aus: AUSet
    text: str | None = None
    item: str = ""
    identity: str = ""
    absent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass
class Look:
    """What a detector saw in one picture, or why it saw nothing."""

    presence: np.ndarray | None
    level: np.ndarray | None
    faces: int
    why: str = ""


@dataclass(frozen=True)
class Scored:
    """All pictures: one row each for people to read, and the report of `metrics.evaluate.evaluate`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def entries(images: Sequence[Path], aus: str | None, text: str | None) -> list[Entry]:
    """Pictures that are all asked for one score or text, or, without either, for what their own PNG text says.

    Raises:
        ValueError: both a score and a text, or neither and a picture that auface did not draw.
    """
    if aus is not None and text is not None:
        raise ValueError("give --aus or --text, not both")
    found = []
    for number, path in enumerate(images):
        if aus is not None:
            score = AUSet.parse(aus)
        elif text is not None:
            score = _reading(text)
        else:
            info = read_face(path)
            if info is None or "aus" not in info:
                raise ValueError(
                    f"{path} does not say what it shows: give --aus CODES, --text TEXT or --manifest FILE"
                )
            score = AUSet.parse(info["aus"])
        found.append(Entry(path, score, text, item=str(number), identity=str(number)))
    return found


def manifest(path: Path) -> list[Entry]:
    """Entries of a JSONL file: ``{"image": ..., "aus": ... or "text": ..., "item", "identity", "absent", "unknown"}``.

    Image files are looked for beside the manifest. Lines of one ``item`` are several pictures of the same request.
    With a text it is the text that counts; a score beside it tells how well the text was read.

    Raises:
        ValueError: a line that cannot be read; names it.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(_entry(json.loads(line), path.parent, number))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    if not found:
        raise ValueError(f'{path}: no lines; write one JSON object a line: {{"image": ..., "aus": ...}}')
    return found


def _entry(values: Mapping[str, Any], folder: Path, number: int) -> Entry:
    unknown = set(values) - MANIFEST_KEYS
    if unknown or "image" not in values or not {"aus", "text"} & set(values):
        raise ValueError(
            f"keys {', '.join(sorted(values))}: image and aus or text are needed; there are "
            f"{', '.join(sorted(MANIFEST_KEYS))}"
        )
    text = values.get("text")
    return Entry(
        image=folder / str(values["image"]),
        aus=AUSet.parse(values["aus"]) if "aus" in values else _reading(str(text)),
        text=text,
        item=str(values.get("item", f"line {number}")),
        identity=str(values.get("identity", values.get("item", f"line {number}"))),
        absent=tuple(str(code) for code in values.get("absent", ())),
        unknown=tuple(str(code) for code in values.get("unknown", ())),
    )


def _reading(text: str) -> AUSet:
    read = read_text(text)
    return AUSet.from_keys(read.parts, read.unscored)


def score_files(
    asked: Sequence[Entry],
    detector: AUDetector,
    *,
    world: World = "closed",
    least: int = 20,
    resamplings: int = 2000,
    permutations: int = 200,
    ceiling: bool = False,
) -> Scored:
    """Look at pictures and score them; a picture that cannot be read counts as one without a face, and is named.

    Args:
        asked: what to look at. detector: who looks. world, least, resamplings, permutations: see `Setting`.
        ceiling: also score exact renders of what is asked for, each of another person: what the detector makes of
            faces that show it for sure. It says little about a detector that does not know rendered faces.

    Raises:
        ValueError: nothing to score, or an item of pictures that were asked for different things.
    """
    if not asked:
        raise ValueError("nothing to score: give at least one picture")
    looks = list(look(asked, detector))
    setting = Setting(
        columns=tuple(detector.columns),
        coverage=tuple(detector.coverage),
        world=world,
        least=least,
        resamplings=resamplings,
        permutations=permutations,
        detector={"name": detector.name, "sha": detector.hash, "calibrated": detector.calibrated},
    )
    rows = [_row(one, seen, setting) for one, seen in zip(asked, looks, strict=True)]
    faces = _gather(asked, looks, setting)
    report = evaluate(faces, setting, ceiling=_renders(faces, detector) if ceiling else None)
    report["failures"] = [{"image": row["image"], "why": row["why"]} for row in rows if row["why"]]
    return Scored(rows, report)


def look(asked: Sequence[Entry], detector: AUDetector) -> Iterator[Look]:
    """What the detector sees in each picture, a few at a time."""
    for begin in range(0, len(asked), BATCH):
        pictures, whys = zip(*[_open(one.image) for one in asked[begin : begin + BATCH]], strict=True)
        there = [picture for picture in pictures if picture is not None]
        seen = detector(there) if there else None
        row = 0
        for picture, why in zip(pictures, whys, strict=True):
            if picture is None or seen is None:
                yield Look(None, None, 0, why)
            else:
                yield _seen(seen, row)
                row += 1


def _open(path: Path) -> tuple[Image.Image | None, str]:
    """The picture, or None and what is wrong with the file."""
    try:
        return plain_rgb(open_image(path)), ""
    except (OSError, ValueError) as error:
        return None, str(error)


def _seen(found: Detections, row: int) -> Look:
    count = int(found.faces[row])
    if not found.found[row]:
        return Look(None, None, count, "no face" if count <= 0 else f"{count} faces")
    return Look(found.presence[row], None if found.level is None else found.level[row], count)


def _renders(faces: ScoredFaces, detector: AUDetector) -> ScoredFaces:
    """Exact renders of the same scores, one of each, before the detector; those that texts speak of in text mode."""
    scores = list(faces.scores) if faces.texts is None else [_reading(text) for text in faces.texts]
    items = [
        SuiteItem(str(number), "single", score.choose_side("L"), (number,), (number,), new=False)
        for number, score in enumerate(scores)
    ]
    camera = Camera.framed("face", RENDER_SIZE)
    seen = []
    for begin in range(0, len(items), BATCH):
        wanted = [Wanted(item, 0) for item in items[begin : begin + BATCH]]
        seen.append(detector(pictures(rendered(wanted, camera))))
    level = None if seen[0].level is None else np.concatenate([one.level for one in seen if one.level is not None])
    return replace(
        faces,
        presence=np.concatenate([one.presence for one in seen])[:, None],
        found=np.concatenate([one.found for one in seen])[:, None],
        level=None if level is None else level[:, None],
    )


def _gather(asked: Sequence[Entry], looks: Sequence[Look], setting: Setting) -> ScoredFaces:
    """Pictures by item; raises `ValueError` for items that cannot be averaged."""
    items: dict[str, list[int]] = {}
    for number, one in enumerate(asked):
        items.setdefault(one.item, []).append(number)
    for name, members in items.items():
        wishes = {(asked[n].aus, asked[n].text, asked[n].absent, asked[n].unknown) for n in members}
        if len(wishes) > 1:
            raise ValueError(f"item {name!r}: its pictures were asked for different things; name items apart")
    if len({len(members) for members in items.values()}) > 1:
        raise ValueError("items have different numbers of pictures: give each as many, or a name of its own to each")
    most = len(next(iter(items.values())))
    shape = (len(items), most, len(setting.columns))
    presence, level, found = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape[:2], dtype=bool)
    for row, members in enumerate(items.values()):
        for place, number in enumerate(members):
            seen = looks[number]
            if seen.presence is not None:
                found[row, place], presence[row, place] = True, seen.presence
                level[row, place] = np.nan if seen.level is None else seen.level
    first = [asked[members[0]] for members in items.values()]
    texts = [one.text for one in first if one.text is not None]
    if texts and len(texts) < len(first):
        raise ValueError(f"{len(texts)} of {len(first)} items have a text: give all of them one, or none")
    return ScoredFaces(
        scores=[one.aus for one in first],
        presence=presence,
        found=found,
        clusters=[one.identity for one in first],
        level=level if any(one.level is not None for one in looks) else None,
        texts=texts or None,
        absent=[one.absent for one in first],
        unknown=[one.unknown for one in first],
    )


def _row(one: Entry, seen: Look, setting: Setting) -> dict[str, Any]:
    """One picture: what was asked for and is seen, what else is seen, and how well it fits, which is not AAAD."""
    row: dict[str, Any] = {"image": str(one.image), "asked": one.aus.format(), "faces": seen.faces, "why": seen.why}
    targets = spec_targets(
        [one.aus if one.text is None else _reading(one.text)],
        setting.columns,
        world=setting.world,
        absent=[one.absent],
        unknown=[one.unknown],
        covered=setting.coverage,
    )
    states = targets.states[0]
    masked = [name for name, state in zip(setting.columns, states, strict=True) if state == MASKED]
    row["not_judged"] = [name for name in masked if name in _named(one.aus)]
    if seen.presence is None:
        return row | {"units": {}, "besides": {}, "fit": 0.0}
    p = dict(zip(setting.columns, (float(x) for x in seen.presence), strict=True))
    asked = [name for name, state in zip(setting.columns, states, strict=True) if state == ON]
    others = [name for name in setting.coverage if name not in {*asked, *row["not_judged"]}]
    fit = float(agreement(targets.states, overlap(states, seen.presence)[None])[0])
    return row | {
        "units": {name: round(p[name], 4) for name in asked},
        "besides": {name: round(p[name], 4) for name in others if p[name] >= SEEN},
        "fit": None if np.isnan(fit) else round(fit, 4),
    }


def _named(score: AUSet) -> set[str]:
    """Channels and codes that a score names."""
    return {channel_name(code, part) for code, part in score.parts} | set(score.codes)
