"""Everything that is to be said of a set of scored faces, as one JSON object: our AAAD v1, section 15.

Shapes: N items, K images each, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from auface_diffusers.facs import AUSet, resolve
from auface_diffusers.metrics import conflicts, controls
from auface_diffusers.metrics.aaad import AAAD, DEFINITION, AAADScore, MetricError
from auface_diffusers.metrics.levels import spearman
from auface_diffusers.metrics.secondary import secondary
from auface_diffusers.metrics.tally import cluster_weights, interval, macro, overlap, per_column, tally
from auface_diffusers.metrics.targets import (
    ON,
    Reading,
    Targets,
    World,
    implied,
    parse_accuracy,
    spec_targets,
    text_targets,
)

SIDE_GAP = 1.5
"""Levels by which the sides of a unit have to differ to count as one-sided."""


@dataclass(frozen=True)
class ScoredFaces:
    """Faces with what they were asked for and what a detector saw.

    Attributes:
        scores: N of them, as asked. presence: (N, K, C) in [0, 1], NaN without a face. level: (N, K, C) or None.
        found: (N, K) bool. clusters: N names, such as identities. texts: N, or None in spec mode.
        absent, unknown: codes of each item that are known to be off, or not labelled; see `targets.spec_targets`.
    """

    scores: Sequence[AUSet]
    presence: np.ndarray
    found: np.ndarray
    clusters: Sequence[Hashable]
    level: np.ndarray | None = None
    texts: Sequence[str] | None = None
    absent: Sequence[Collection[str]] | None = None
    unknown: Sequence[Collection[str]] | None = None

    def rows(self, chosen: Sequence[int] | np.ndarray) -> ScoredFaces:
        """Some of the items, by number."""
        listed: dict[str, Any] = {
            name: None if value is None else [value[row] for row in chosen]
            for name, value in vars(self).items()
            if name in ("scores", "clusters", "texts", "absent", "unknown")
        }
        level = None if self.level is None else self.level[chosen]
        return replace(self, presence=self.presence[chosen], found=self.found[chosen], level=level, **listed)

    @property
    def mean(self) -> np.ndarray:
        """(N, C): `average` of the presence."""
        return self.average(self.presence)

    def average(self, values: np.ndarray) -> np.ndarray:
        """(N, C) of values (N, K, C): their mean over the images with a face; NaN without any."""
        there = self.found[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(there, np.nan_to_num(values), 0).sum(1) / there.sum(1))


@dataclass(frozen=True)
class Setting:
    """How faces are judged.

    Attributes:
        columns, coverage: of the detector. dropped: columns that a gate keeps out of the headline, and why.
        world: closed or open; open is for texts of other people, who do not name all that is absent.
        least: items of either polarity that a column needs.
        resamplings, permutations, seed: of intervals and controls. detector: what is said of it in the result.
    """

    columns: tuple[str, ...]
    coverage: tuple[str, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    world: World = "closed"
    least: int = 20
    resamplings: int = 2000
    permutations: int = controls.PERMUTATIONS
    seed: int = 0
    detector: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> tuple[str, ...]:
        """Columns of the headline."""
        return tuple(name for name in self.coverage if name not in self.dropped)


def evaluate(
    faces: ScoredFaces,
    setting: Setting,
    *,
    ceiling: ScoredFaces | None = None,
    neutral: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score faces, with controls, conflicts, levels and sides.

    Args:
        faces: what is judged. setting: how.
        ceiling: real or rendered faces of the same scores, which the detector sees as well as it can; None is none.
        neutral: presence (M, C) on real neutral faces, for leakage; None is none.

    Returns:
        Plain values for JSON; None where too few items speak.

    Raises:
        MetricError: no items.
    """
    if not len(faces.scores):
        raise MetricError("nothing to score: give at least one face")
    targets = wanted(faces, setting)
    score = _score(faces, targets, setting)
    top = _score(ceiling, wanted(ceiling, setting), setting) if ceiling is not None else None
    usable = controls.same_columns(targets.states, setting.usable, setting.columns)
    result = {
        **_headline(faces, score, top, setting),
        "shuffled": asdict(controls.shuffled(usable, faces.mean, setting.permutations, setting.seed, setting.least)),
        "hard_shuffled": asdict(
            controls.hard_shuffled(usable, faces.mean, setting.permutations, setting.seed, setting.least)
        ),
        "secondary": secondary(usable, faces.mean, setting.least),
        "per_au": _per_column(score, top, setting),
        "levels": _levels(faces, targets, score, setting),
        "sides": _sides(faces, setting),
        "conflict": _conflict(faces, ceiling, targets, setting),
        "confusion": _confusion(faces, targets, score, setting),
        "reliability": {
            "faces": _reliable(score, setting),
            "ceiling": None if top is None else _reliable(top, setting),
        },
        "leakage": None if neutral is None else _leakage(faces, targets, neutral, setting),
    }
    if faces.texts is not None:
        result["parse_accuracy"] = parse_accuracy(faces.texts, faces.scores)
    plain: dict[str, Any] = _plain(result)
    return plain


def wanted(faces: ScoredFaces, setting: Setting, raw: bool = False) -> Targets:
    """What the faces are asked for: by their texts, if they have any, else by their scores."""
    if faces.texts is not None:
        return text_targets(faces.texts, setting.columns, world=setting.world)
    reading: Reading = "raw" if raw else "resolved"
    return spec_targets(
        faces.scores,
        setting.columns,
        world=setting.world,
        reading=reading,
        absent=faces.absent,
        unknown=faces.unknown,
        covered=setting.coverage,
    )


def _score(faces: ScoredFaces, targets: Targets, setting: Setting, rows: np.ndarray | None = None) -> AAADScore:
    """Of some of the items, with intervals if these are all."""
    metric = AAAD(
        setting.columns,
        covered=setting.usable,
        world=setting.world,
        least=setting.least,
        resamplings=setting.resamplings if rows is None else 0,
        seed=setting.seed,
    )
    if rows is not None:
        faces, targets = faces.rows(rows), targets.rows(rows)
    level = None if faces.level is None else np.nan_to_num(faces.level)
    metric.update(faces.presence, targets, level=level, found=faces.found, clusters=faces.clusters)
    return metric.compute()


def _headline(faces: ScoredFaces, score: AAADScore, top: AAADScore | None, setting: Setting) -> dict[str, Any]:
    """What was measured, and the score with its references."""
    return {
        "definition": DEFINITION,
        "mode": "spec" if faces.texts is None else "text",
        "world": setting.world,
        "detectors": [dict(setting.detector) | {"au_gate": dict(setting.dropped)}],
        "au_list": [name for name in setting.usable if name not in score.skipped],
        "not_scored": [name for name in setting.columns if name in score.skipped],
        "n_items": score.items,
        "n_images": score.images,
        "fail_rate": score.failed,
        "aaad": score.aaad,
        "ci": list(score.interval),
        "skill": score.skill,
        "chance": score.chance,
        "detected_only": score.detected,
        "auc": _mean(score.auc[_columns(setting, setting.usable)]),
        "ceiling": None if top is None else top.aaad,
        "rel": None if top is None else _mean(controls.relative(score.per_column, top.per_column)),
    }


def _per_column(score: AAADScore, top: AAADScore | None, setting: Setting) -> list[dict[str, Any]]:
    found = []
    for column, name in enumerate(setting.columns):
        if name not in setting.coverage:
            status = "not covered"
        elif name in setting.dropped:
            status = f"gated: {setting.dropped[name]}"
        else:
            status = f"fewer than {setting.least} on or off" if np.isnan(score.per_column[column]) else "ok"
        found.append(
            {
                "au": name,
                "n_on": int(score.on_count[column]),
                "n_off": int(score.off_count[column]),
                "aaad": score.per_column[column],
                "ci": list(score.intervals[column]),
                "auc": score.auc[column],
                "ece": None if top is None else top.ece[column],
                "ceiling": None if top is None else top.per_column[column],
                "status": status,
            }
        )
    return found


def _levels(faces: ScoredFaces, targets: Targets, score: AAADScore, setting: Setting) -> dict[str, Any] | None:
    """Alignment of levels, rank correlation of what was asked and read, and means by level."""
    if faces.level is None:
        return None
    mean = faces.average(faces.level)
    asked = np.where(np.isin(setting.columns, setting.usable), targets.levels, np.nan)
    ranks = spearman(asked, mean, setting.least)
    return {
        "alignment": _mean(score.level),
        "per_au": {
            name: {"alignment": score.level[c], "spearman": ranks[c], "means": list(score.level_means[c])}
            for c, name in enumerate(setting.columns)
            if not np.isnan(score.level[c])
        },
    }


def _confusion(faces: ScoredFaces, targets: Targets, score: AAADScore, setting: Setting) -> dict[str, Any]:
    """Mean presence of each scored unit (columns) among the items that ask for each scored unit (rows)."""
    names = [name for name in setting.usable if name not in score.skipped]
    chosen, mean = _columns(setting, names), np.nan_to_num(faces.mean)
    values = [mean[targets.states[:, column] == ON][:, chosen].mean(0) for column in chosen]
    return {"units": [setting.columns[column] for column in chosen], "seen": [row.round(4).tolist() for row in values]}


def _reliable(score: AAADScore | None, setting: Setting) -> dict[str, list[float]] | None:
    """Over all scored units together: probability said, and how often it is so; a bin each."""
    if score is None:
        return None
    chosen = [c for c in _columns(setting, setting.usable) if not np.isnan(score.per_column[c])]
    said, so, weight = (np.nan_to_num(part[chosen]) for part in score.reliability)
    total = weight.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"said": list((said * weight).sum(0) / total), "so": list((so * weight).sum(0) / total)}


def _sides(faces: ScoredFaces, setting: Setting) -> dict[str, Any] | None:
    """How often the side that was asked to be stronger reads stronger; None for a detector without sides."""
    place = {name: column for column, name in enumerate(setting.columns)}
    mean, right, total = faces.mean, 0, 0
    pairs = [(name, "R" + name[1:]) for name in setting.usable if name[0] == "L" and "R" + name[1:] in setting.usable]
    if not pairs:
        return None
    channel = wanted(faces, setting).levels if faces.texts is not None else _all_levels(faces, setting)
    for left, other in pairs:
        apart = channel[:, place[left]] - channel[:, place[other]]
        seen = mean[:, place[left]] - mean[:, place[other]]
        there = (np.abs(np.nan_to_num(apart)) >= SIDE_GAP) & ~np.isnan(seen)
        right += int((np.sign(apart[there]) == np.sign(seen[there])).sum())
        total += int(there.sum())
    return {"n": total, "right": right / total if total else None}


def _all_levels(faces: ScoredFaces, setting: Setting) -> np.ndarray:
    names = list(setting.columns)
    return np.array([resolve(score).effective.vector(names) for score in faces.scores])


def _conflict(
    faces: ScoredFaces, ceiling: ScoredFaces | None, targets: Targets, setting: Setting
) -> dict[str, Any] | None:
    """The conflicting scores by themselves, beside matched ones without a conflict; None if there are none."""
    by_rule = conflicts.conflict_rows(faces.scores)
    rows = by_rule.pop("")
    if not len(rows):
        return None
    pairs = conflicts.matched_control(faces.scores, rows)
    raw = wanted(faces, setting, raw=True)
    first, second = (_score(faces, targets, setting, chosen) if len(chosen) else None for chosen in pairs)
    found: dict[str, Any] = {
        "n": len(rows),
        "res": _score(faces, targets, setting, rows).aaad,
        "raw": _score(faces, raw, setting, rows).aaad if faces.texts is None else None,
        "ceiling": None if ceiling is None else _score(ceiling, wanted(ceiling, setting), setting, rows).aaad,
        "matched": len(pairs[0]),
        "control": None if second is None else second.aaad,
        "diff_ci": _paired_difference(faces, targets, pairs, setting),
        "matched_res": None if first is None else first.aaad,
        "per_rule": {rule: len(members) for rule, members in by_rule.items()},
    }
    seen = conflicts.collapse(faces.scores, faces.mean, setting.columns)
    found["collapse"] = {rule: asdict(one) for rule, one in seen.items()}
    return found


def _paired_difference(
    faces: ScoredFaces, targets: Targets, pairs: tuple[np.ndarray, np.ndarray], setting: Setting
) -> list[float | None]:
    """95 % interval of the matched conflicts' score minus their controls': pairs are resampled whole."""
    weights = cluster_weights(range(len(pairs[0])), setting.resamplings, setting.seed)
    values = []
    for rows in pairs:
        states = controls.same_columns(targets.states[rows], setting.usable, setting.columns)
        overlaps = np.nan_to_num(overlap(states, faces.mean[rows]))
        values.append(per_column(tally(states, overlaps, weights), setting.least))
    return list(interval(macro(values[0] - values[1])))


def _leakage(faces: ScoredFaces, targets: Targets, neutral: np.ndarray, setting: Setting) -> dict[str, Any]:
    excused: list[Collection[str]] = [implied(score) for score in faces.scores]
    values = controls.leakage(targets.states, faces.mean, neutral, setting.columns, excused)
    chosen = _columns(setting, setting.usable)
    return {"mean": _mean(values[chosen]), "per_au": {setting.columns[c]: values[c] for c in chosen}}


def _columns(setting: Setting, names: Collection[str]) -> list[int]:
    return [column for column, name in enumerate(setting.columns) if name in names]


def _mean(values: np.ndarray) -> float:
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: Any) -> Any:  # noqa: ANN401 - a tree of whatever was put together above
    """Plain numbers for JSON, which has no NaN: None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value
