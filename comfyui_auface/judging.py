"""What is said of faces that were scored: the number and what it has to be seen beside, a row a unit, the best of a
batch. Needs no ComfyUI.

Shapes: N images, K rendered people, C columns of a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auface_diffusers.facs import units
from auface_diffusers.facs.notation import split_name
from auface_diffusers.metrics.detectors import AUDetector, Detections
from comfyui_auface import reading
from comfyui_auface.expression import choose
from comfyui_auface.scoring import CLEAR, SEEN, Asked, why_not

AVERAGES = ("faces", "units")
CHANCE = 0.5
RESAMPLINGS = 2000
NAN = float("nan")
Renders = Sequence[tuple[np.ndarray, np.ndarray]]
"""Presence (K, C) and found (K,) of each image's score."""


@dataclass(frozen=True)
class UnitRow:
    """One column. Numbers that nothing speaks of are NaN.

    Attributes:
        column: such as ``"L12"``. on, off: how many images ask for it, and for its absence.
        seen_on, seen_off: mean presence in those, in [0, 1]; an image without a face has none.
        value: alignment in [0, 1]: the mean of the two polarities there are, a missing face counting 0.
        render: mean presence in exact renders of the images that ask for it.
        besides: images that show it without being asked to.
    """

    column: str
    on: int
    off: int
    seen_on: float
    seen_off: float
    value: float
    render: float
    besides: int

    @property
    def name(self) -> str:
        """``"L12 lip corner puller"``."""
        return f"{self.column} {units[split_name(self.column)[0]].name.lower()}"


@dataclass(frozen=True)
class Judgement:
    """N images, judged.

    Attributes:
        score: in [0, 1]. average: over "faces" (mean agreement) or "units" (AAAD, our definition, v1).
        interval: 95 %, NaN where there are too few images; least: how many are needed.
        chance: of a face that shows nothing; None where there is no chance level. ceiling: of exact renders; or None.
        per_face: (N,) agreement, 0 without a face. failed: image number from 1 and reason.
        rows: a `UnitRow` for each column that is judged. asked, detector: what was asked, who looked.
    """

    score: float
    average: str
    interval: tuple[float, float]
    least: int
    chance: float | None
    ceiling: float | None
    per_face: np.ndarray
    failed: dict[int, str]
    rows: tuple[UnitRow, ...]
    asked: Asked
    detector: str

    @property
    def relative(self) -> float | None:
        """Share of the way from chance to the renders; None where that way is too short to say."""
        if self.chance is None or self.ceiling is None or self.ceiling - self.chance < CLEAR:
            return None
        return (self.score - self.chance) / (self.ceiling - self.chance)

    @property
    def title(self) -> str:
        """What the number is called."""
        return "AAAD (ours, v1)" if self.average == "units" else "agreement"


def face_scores(asked: Asked, seen: Detections) -> np.ndarray:
    """Agreement of each image with what it is asked for, (N,): `metrics.tally.agreement`, 0 without one face."""
    from auface_diffusers.metrics.tally import agreement, overlap

    fits = agreement(asked.targets.states, overlap(asked.targets.states, np.nan_to_num(seen.presence)))
    return np.where(seen.found, fits, 0.0)


def judge(
    detector: AUDetector,
    asked: Asked,
    seen: Detections,
    rendered: Renders = (),
    *,
    average: str = "faces",
    least: int = 20,
) -> Judgement:
    """Score images.

    Args:
        detector: who looked. asked, seen: of N images. rendered: of each image's score; empty for no ceiling.
        average: "faces": the mean agreement of the images, balanced within each. "units": AAAD, balanced within each
            unit over all images.
        least: images that an interval needs, and that a unit needs of either kind for a value in AAAD.

    Raises:
        ValueError: AAAD with too few images for any unit.
    """
    choose("average", average, AVERAGES)
    fits, failed = face_scores(asked, seen), 1 - float(seen.found.mean())
    if average == "units":
        score, interval = aaad_of(detector, asked, seen.presence, seen.found, least)
        ceiling = None
        if rendered:
            presence, found = (np.stack(part) for part in zip(*rendered, strict=True))
            ceiling, _ = aaad_of(detector, asked, presence, found, least)
    else:
        score, interval = float(fits.mean()), mean_interval(fits, least)
        ceiling = float(np.mean([_rendered_fits(asked, row, one) for row, one in enumerate(rendered)] or NAN))
        ceiling = None if np.isnan(ceiling) else ceiling
    both = all(((asked.targets.states == polarity).any(1)).all() for polarity in (0, 1))
    return Judgement(
        score=score,
        average=average,
        interval=interval,
        least=least,
        chance=CHANCE * (1 - failed) if both or average == "units" else None,
        ceiling=ceiling,
        per_face=fits,
        failed={row + 1: why_not(seen, row) for row in np.nonzero(~seen.found)[0].tolist()},
        rows=tuple(_row(detector, column, asked, seen, rendered) for column in _judged(asked)),
        asked=asked,
        detector=reading.name_of(detector),
    )


def aaad_of(
    detector: AUDetector, asked: Asked, presence: np.ndarray, found: np.ndarray, least: int
) -> tuple[float, tuple[float, float]]:
    """AAAD of presence (N, C) or (N, K, C), and its interval. Raises `ValueError` where no unit has a value."""
    from auface_diffusers.metrics import AAAD

    metric = AAAD(detector.columns, covered=detector.coverage, world=asked.world, least=least, resamplings=RESAMPLINGS)
    metric.update(presence, asked.targets, found=found)
    score = metric.compute()
    if np.isnan(score.aaad):
        most = int(np.minimum(score.on_count, score.off_count).max())
        raise ValueError(
            f"average over units: AAAD needs {least} images that ask for a unit and {least} that ask for its absence; "
            f"here no unit has more than {most} of each. Score more faces of different expressions at once, lower "
            "'images needed', or average over faces"
        )
    return score.aaad, score.interval


def mean_interval(values: np.ndarray, least: int) -> tuple[float, float]:
    """95 % of the mean of (N,), by the bootstrap of AAAD; NaN with fewer than ``least``."""
    from auface_diffusers.metrics.tally import cluster_weights, interval

    if len(values) < least:
        return (NAN, NAN)
    weights = cluster_weights(range(len(values)), RESAMPLINGS)
    with np.errstate(invalid="ignore"):
        return interval(weights @ values / weights.sum(1))


def best(fits: np.ndarray, found: np.ndarray, keep: int) -> list[int]:
    """Numbers, from 0, of the ``keep`` images that fit best, the best first; earlier ones first where they are equal.

    Images without one face are never kept, so there may be fewer.

    Raises:
        ValueError: ``keep`` is more than there are, or no image has one face.
    """
    check_keep(keep, len(fits))
    order = [int(row) for row in np.argsort(-fits, kind="stable") if found[row]]
    if not order:
        raise ValueError(f"none of the {len(fits)} images has exactly one face: nothing is left to keep")
    return order[:keep]


def check_keep(keep: int, images: int) -> None:
    """Raise `ValueError` unless ``keep`` of so many images can be kept."""
    if not 1 <= keep <= images:
        raise ValueError(f"keep {keep} of {images} images: give 1..{images}, or make more images")


def _judged(asked: Asked) -> list[int]:
    return [int(column) for column in np.nonzero((asked.targets.states >= 0).any(0))[0]]


def _rendered_fits(asked: Asked, row: int, one: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean agreement of the renders of one image's score."""
    from auface_diffusers.metrics.tally import agreement, overlap

    states = np.repeat(asked.targets.states[[row]], len(one[0]), 0)
    return float(np.where(one[1], agreement(states, overlap(states, np.nan_to_num(one[0]))), 0.0).mean())


def _row(detector: AUDetector, column: int, asked: Asked, seen: Detections, rendered: Renders) -> UnitRow:
    state = asked.targets.states[:, column]
    on, off = state == 1, state == 0
    p = np.nan_to_num(seen.presence[:, column])
    halves = [_mean(np.where(seen.found, fit, 0.0)[rows]) for rows, fit in ((on, p), (off, 1 - p))]
    drawn = [one[0][one[1], column] for row, one in enumerate(rendered) if on[row]]
    return UnitRow(
        column=detector.columns[column],
        on=int(on.sum()),
        off=int(off.sum()),
        seen_on=_mean(p[on & seen.found]),
        seen_off=_mean(p[off & seen.found]),
        value=_mean(np.array([half for half in halves if not np.isnan(half)])),
        render=_mean(np.concatenate(drawn)) if drawn else NAN,
        besides=int((off & seen.found & (p >= SEEN)).sum()),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NAN


# --- in words --------------------------------------------------------------------------------------------------------


def headline(one: Judgement) -> str:
    """One line: the number, chance and the renders."""
    parts = [f"{one.title} {one.score:.3f}"]
    parts.append("no chance level" if one.chance is None else f"chance {one.chance:.3f}")
    if one.ceiling is not None:
        parts.append(f"exact renders {one.ceiling:.3f}")
    if one.failed:
        parts.append(f"{len(one.failed)} of {len(one.per_face)} without one face")
    return " · ".join(parts)


def notes(one: Judgement) -> list[str]:
    """What belongs to the number: interval, references, failures, what was not judged."""
    count = len(one.per_face)
    faces = f"{count} image{'s' * (count > 1)}"
    low, high = one.interval
    said = [f"{faces}: too few for an interval ({one.least} are needed)"]
    if not np.isnan(low):
        said = [f"{faces}, 95 %: {low:.3f} to {high:.3f}"]
    if one.relative is not None:
        said.append(f"{one.relative:.0%} of the way from chance to exact renders")
    if one.chance is None:
        missing = "the open world asks for no absence" if one.asked.world == "open" else "a neutral face asks for none"
        said.append(f"no chance level: {missing}")
    said += [f"image {number}: {why}, counts as 0" for number, why in one.failed.items()]
    said += [f"not judged: {reason}" for reason in one.asked.not_judged]
    return [*said, f"read by {one.detector}; {one.asked.world} world; balanced over asked and not asked"]


def besides(one: Judgement) -> list[UnitRow]:
    """Units that are seen without being asked for, the most frequent first."""
    return sorted((row for row in one.rows if row.besides), key=lambda row: (-row.besides, -row.seen_off))


def table(one: Judgement) -> str:
    """The whole report, lines for people."""
    wide = max([len(row.name) for row in one.rows if row.on] or [4])
    lines = [headline(one), *notes(one), ""]
    if any(row.on for row in one.rows):
        lines.append(f"{'unit':{wide}}  asked  seen  not asked  seen  alignment  renders")
    for row in one.rows:
        if row.on:
            numbers = (f"{row.seen_on:4.2f}", f"{row.seen_off:4.2f}", f"{row.value:9.2f}", f"{row.render:7.2f}")
            on, off, value, render = (text.replace("nan", "  -") for text in numbers)
            lines.append(f"{row.name:{wide}}  {row.on:5}  {on}  {row.off:9}  {off}  {value}  {render}")
    others = besides(one)
    lines += ["", "seen without being asked for:"] if others else []
    lines += [f"{row.name}: in {row.besides} of {row.off} images, mean {row.seen_off:.2f}" for row in others]
    if len(one.per_face) > 1:
        each = " ".join(f"{value:.3f}" for value in one.per_face)
        lines += ["", f"agreement of each image: {each}"]
    return "\n".join(lines)


def ranking(fits: np.ndarray, kept: Sequence[int], seen: Detections) -> str:
    """All images from the best to the worst, with those that were kept marked."""
    lines = [f"kept {len(kept)} of {len(fits)} images; 0.5 is chance, 1 is perfect"]
    for place, row in enumerate(sorted(range(len(fits)), key=lambda row: (not seen.found[row], -fits[row])), 1):
        why = why_not(seen, row)
        lines.append(f"{place}. index {row}: {why or f'{fits[row]:.3f}'}{' (kept)' * (row in kept)}")
    return "\n".join(lines)
