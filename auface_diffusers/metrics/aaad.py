"""AAAD, the Alignment Accuracy of AU probability Distributions: does a face show what its text says?

The name and the purpose are those of arXiv 2603.18588. The formula is ours (v1): the paper's was not available, and
values of ours must not be compared with the paper's. Of each unit it is the overlap of two distributions, what is
asked for and what a detector sees, balanced over presence and absence: 0.5 is chance for every unit, whatever its
rate, and faces that show nothing get 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auface_diffusers.facs import AUSet, units
from auface_diffusers.metrics.histogram import Histogram, area_under_curve, calibration_error, reliability
from auface_diffusers.metrics.levels import (
    LEVELS,
    LevelTally,
    level_overlap,
    level_tally,
    point_distribution,
    with_residuals,
)
from auface_diffusers.metrics.levels import per_column as level_per_column
from auface_diffusers.metrics.tally import LEAST, Tally, cluster_weights, interval, macro, overlap, per_column, tally
from auface_diffusers.metrics.targets import MASKED, Reading, Targets, World, spec_targets

DEFINITION = "our-aaad-v1"
CHANCE = 0.5
Array = np.ndarray | Tensor


class MetricError(ValueError):
    """What cannot be scored; the message names the value and the way out."""


@dataclass(frozen=True)
class AAADScore:
    """The score and its parts. Values that too few items speak of are NaN.

    Attributes:
        aaad: mean of ``per_column``, in [0, 1]; 0.5 is chance. interval: 95 %, from the cluster bootstrap.
        skill: 2 aaad - 1, in [-1, 1]: mean p where asked minus mean p where not; 0 is chance.
        columns: names. per_column, intervals: (C,) and (C, 2).
        on_count, off_count: (C,) items. auc: (C,) area under the ROC curve, which no calibration changes. ece: (C,)
            calibration error at equal priors; it says something of the detector where what was asked for is there.
        reliability: (3, C, bins), mean probability, share of images with the unit, and weight, at equal priors.
        level, level_means: (C,) alignment of levels, and (C, 6) mean level read for each asked for.
        items, images: counts. failed: share of images without one face. detected: AAAD without those.
        chance: 0.5 * (1 - failed), the score of a face that shows nothing.
    """

    aaad: float
    interval: tuple[float, float]
    skill: float
    columns: tuple[str, ...]
    per_column: np.ndarray
    intervals: np.ndarray
    on_count: np.ndarray
    off_count: np.ndarray
    auc: np.ndarray
    ece: np.ndarray
    reliability: np.ndarray
    level: np.ndarray
    level_means: np.ndarray
    items: int
    images: int
    failed: float
    detected: float
    chance: float

    @property
    def skipped(self) -> tuple[str, ...]:
        """Columns without a value: too few items ask for the unit, or for its absence."""
        return tuple(name for name, value in zip(self.columns, self.per_column, strict=True) if np.isnan(value))


class AAAD:
    """The metric: feed it batches with `update`, read it with `compute`.

        >>> metric = AAAD(covered=estimator.coverage)
        >>> metric.update(estimator(images).presence, ["1C+2C+26C", "12D"])
        >>> metric.compute().aaad

    What it keeps does not grow with the number of items, and is exact: batches in any order, or on several processes
    and added (``a + b``, or `sync` under accelerate), give the same score to the last bit.

    Args:
        columns: names of the detector's columns; None takes ``units.channels``.
        covered: those that the detector can tell; None is all.
        world, reading: of scores, see `targets.spec_targets`.
        least: items of either polarity that a column needs for a value.
        resamplings: of the bootstrap; 0 gives no intervals. seed: of these.
        residuals: the detector's own errors of levels, (C, 11), see `levels.fit_residuals`: levels that it reads are
            spread by these before they are compared. None takes them as they are.
    """

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        *,
        covered: Sequence[str] | None = None,
        world: World = "closed",
        reading: Reading = "resolved",
        least: int = LEAST,
        resamplings: int = 2000,
        seed: int = 0,
        residuals: np.ndarray | None = None,
    ) -> None:
        if least < 1 or resamplings < 0:
            raise MetricError(f"least {least}, resamplings {resamplings}: give >= 1 and >= 0")
        self.columns = tuple(units.channels if columns is None else columns)
        self.covered = None if covered is None else tuple(covered)
        self.world, self.reading = world, reading
        self.least, self.resamplings, self.seed = least, resamplings, seed
        self.residuals = None if residuals is None else self._checked_residuals(residuals)
        spec_targets([], self.columns, world=world, reading=reading, covered=self.covered)  # raises for bad names
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        count = len(self.columns)
        self.sums, self.seen = Tally.empty(count, self.resamplings), Tally.empty(count)
        self.levels, self.histogram = LevelTally.empty(count), Histogram.empty(count)
        self.counts = np.zeros(3)  # items, images, images that failed

    def update(
        self,
        presence: Array,
        targets: Targets | Sequence[AUSet | str],
        *,
        level: Array | None = None,
        found: Array | None = None,
        clusters: Sequence[Hashable] | None = None,
    ) -> None:
        """Add items.

        Args:
            presence: (N, C) or, with K images an item, (N, K, C), in [0, 1], calibrated at equal priors.
            targets: what the N items ask for, or their scores (notation or `AUSet`).
            level: like ``presence``, in 0..5, what is read: 0 where a unit is absent.
            found: (N,) or (N, K) bool, False where there is no face, or more than one: such an image scores 0 in every
                column, whatever was asked for. None: all are found.
            clusters: N names of what comes and goes together in the bootstrap, such as identities; None: each item is
                its own, named by what it asks for and what was read, in whatever batch or process it is seen.

        Raises:
            MetricError: shapes that do not fit, NaN or values outside the range in an image that was found.
        """
        wanted = targets if isinstance(targets, Targets) else self.targets(targets)
        values = self._checked(presence, len(wanted), "presence", 1.0)
        there = np.ones(values.shape[:2], dtype=bool) if found is None else _two(_array(found).astype(bool))
        count = len(wanted) if clusters is None else len(clusters)
        if there.shape != values.shape[:2] or count != len(wanted) or wanted.columns != self.columns:
            raise MetricError(
                f"found {there.shape}, {count} clusters and columns of {len(wanted.columns)} do not fit presence "
                f"{values.shape} of {len(self.columns)} columns"
            )
        states = np.where(self._blind(), MASKED, wanted.states).astype(np.int8)
        _check_range(values, states >= 0, there, "presence", 1.0)
        asked = np.where(states == MASKED, np.nan, wanted.levels)
        if level is not None:
            read = self._checked(level, len(wanted), "level", 5.0)
            if read.shape != values.shape:
                raise MetricError(f"level {read.shape} does not fit presence {values.shape}: give one for each image")
            _check_range(read, ~np.isnan(asked), there, "level", 5.0)
        each = np.where(there[..., None], overlap(states[:, None], np.nan_to_num(values)), 0.0)
        names = _own_names(states, each) if clusters is None else clusters
        self.sums += tally(states, each.mean(1), cluster_weights(names, self.resamplings, self.seed))
        any_found = there.any(1)
        with np.errstate(invalid="ignore"):
            detected = (each * there[..., None]).sum(1) / there.sum(1, keepdims=True)
        self.seen += tally(states[any_found], detected[any_found])
        for image in range(values.shape[1]):
            rows = there[:, image]
            self.histogram += Histogram.of(states[rows], values[rows, image])
            if level is not None:
                overlaps = level_overlap(asked, self._level_shares(np.nan_to_num(read[:, image])))
                self.levels += level_tally(asked, read[:, image], overlaps, found=rows)
        self.counts += [len(wanted), there.size, (~there).sum()]

    def targets(self, scores: Sequence[AUSet | str]) -> Targets:
        """What scores ask for, in this metric's columns and world."""
        parsed = [AUSet.parse(one) if isinstance(one, str) else one for one in scores]
        return spec_targets(parsed, self.columns, world=self.world, reading=self.reading, covered=self.covered)

    def compute(self) -> AAADScore:
        """The score of all items so far. Raises `MetricError` if there are none."""
        items, images, failures = (int(count) for count in self.counts)
        if not items:
            raise MetricError("nothing was scored: call update first")
        each = per_column(self.sums, self.least)
        total = macro(each)
        failed = failures / images
        return AAADScore(
            aaad=float(total[0]),
            interval=interval(total),
            skill=2 * float(total[0]) - 1,
            columns=self.columns,
            per_column=each[0],
            intervals=np.array([interval(each[:, column]) for column in range(len(self.columns))]),
            on_count=self.sums.on_count[0],
            off_count=self.sums.off_count[0],
            auc=area_under_curve(self.histogram, self.least),
            ece=calibration_error(self.histogram, least=self.least),
            reliability=np.stack(reliability(self.histogram)),
            level=level_per_column(self.levels, self.least),
            level_means=self.levels.means,
            items=items,
            images=images,
            failed=failed,
            detected=float(macro(per_column(self.seen, self.least))[0]),
            chance=CHANCE * (1 - failed),
        )

    def __add__(self, other: AAAD) -> AAAD:
        """A metric that has seen what both have; their settings must be the same."""
        if self._settings() != other._settings():
            raise MetricError("these metrics differ in columns, world, reading, least, resamplings or seed")
        made = self._fresh()
        for name in ("sums", "seen", "levels", "histogram", "counts"):
            setattr(made, name, getattr(self, name) + getattr(other, name))
        return made

    def sync(self, accelerator: Any = None) -> AAAD:  # noqa: ANN401 - an accelerate.Accelerator; or torch's own group
        """What all processes have seen together, on each of them.

        ``accelerator``: an ``accelerate.Accelerator``; None takes torch's default process group.
        """
        total = self + self._fresh()
        own = self._arrays()
        together = torch.from_numpy(np.concatenate([part.ravel() for part in own]).astype(np.float64))
        if accelerator is not None:
            together = accelerator.reduce(together.to(accelerator.device), "sum").cpu()
        elif torch.distributed.is_initialized():
            torch.distributed.all_reduce(together)
        begin = 0
        for part in total._arrays():
            part[...] = together[begin : begin + part.size].numpy().reshape(part.shape)
            begin += part.size
        return total

    def _fresh(self) -> AAAD:
        """One with the same settings that has seen nothing."""
        return AAAD(
            self.columns,
            covered=self.covered,
            world=self.world,
            reading=self.reading,
            least=self.least,
            resamplings=self.resamplings,
            seed=self.seed,
            residuals=self.residuals,
        )

    def _arrays(self) -> list[np.ndarray]:
        """Everything that was summed, the arrays themselves."""
        parts = (self.sums, self.seen, self.levels, self.histogram)
        return [array for part in parts for array in vars(part).values()] + [self.counts]

    def _settings(self) -> tuple[Any, ...]:
        own = None if self.residuals is None else self.residuals.tobytes()
        return self.columns, self.covered, self.world, self.reading, self.least, self.resamplings, self.seed, own

    def _level_shares(self, read: np.ndarray) -> np.ndarray:
        """Probabilities (N, C, 6) of the levels, given what is read (N, C)."""
        return point_distribution(read) if self.residuals is None else with_residuals(read, self.residuals)

    def _checked_residuals(self, residuals: np.ndarray) -> np.ndarray:
        shares = np.asarray(residuals, dtype=np.float64)
        shape = (len(self.columns), 2 * LEVELS - 1)
        if shares.shape != shape or not (shares >= 0).all() or not np.allclose(shares.sum(1), 1):
            raise MetricError(f"residuals {shares.shape}: give shares {shape} that sum to 1 in each column")
        return shares

    def _blind(self) -> np.ndarray:
        seen = set(self.columns if self.covered is None else self.covered)
        return np.array([name not in seen for name in self.columns])

    def _checked(self, values: Array, items: int, name: str, top: float) -> np.ndarray:
        """(N, K, C) float64."""
        given = _array(values).astype(np.float64)
        given = given[:, None] if given.ndim == 2 else given
        if given.ndim != 3 or len(given) != items or given.shape[2] != len(self.columns) or not given.shape[1]:
            raise MetricError(
                f"{name} {tuple(values.shape)} for {items} items: give (N, {len(self.columns)}), or "
                f"(N, K, {len(self.columns)}) with K images each, in 0..{top:g}"
            )
        return given


def aaad(
    presence: Array,
    targets: Targets | Sequence[AUSet | str],
    columns: Sequence[str] | None = None,
    **options: Any,  # noqa: ANN401 - those of the two
) -> AAADScore:
    """AAAD of all items at once; the arguments are those of `AAAD` and `AAAD.update`."""
    own = {name: options.pop(name) for name in ("level", "found", "clusters") if name in options}
    metric = AAAD(targets.columns if isinstance(targets, Targets) else columns, **options)
    metric.update(presence, targets, **own)
    return metric.compute()


def _array(values: Array) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values)


def _two(values: np.ndarray) -> np.ndarray:
    return values[:, None] if values.ndim == 1 else values


def _own_names(states: np.ndarray, each: np.ndarray) -> list[str]:
    """A name for each item: of what it asks for (N, C) and how far its images (N, K, C) show it, to the last bit."""
    return [
        hashlib.blake2b(asked.tobytes() + shown.tobytes(), digest_size=16).hexdigest()
        for asked, shown in zip(states, each, strict=True)
    ]


def _check_range(values: np.ndarray, counts: np.ndarray, there: np.ndarray, name: str, top: float) -> None:
    """Whatever counts, (N, C) bool, in an image that is there has to be a number in 0..top."""
    counted = np.broadcast_to(counts[:, None], values.shape) & there[..., None]
    wrong = counted & ~((values >= 0) & (values <= top))  # also catches NaN
    if wrong.any():
        row, image, column = (int(where[0]) for where in np.nonzero(wrong))
        raise MetricError(
            f"{name} of item {row}, image {image}, column {column} is {values[row, image, column]:g}: numbers in "
            f"0..{top:g} are needed; say found=False for an image that the detector could not read"
        )
