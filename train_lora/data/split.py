"""Who is trained on and who is held out, and how often a picture of a rare unit comes in an epoch."""

from __future__ import annotations

import hashlib
import pkgutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPLITS = ("train", "validation", "test")
BY = ("seed", "published", "none")


@dataclass(frozen=True)
class SplitConfig:
    """How subjects are shared out; table ``[split]`` of a configuration. Nobody is in two splits.

    Attributes:
        by: "seed" draws ``test`` and ``validation``; "published" tests on one of the three folds of the literature
            (`published_splits.toml`) and draws ``validation`` from the rest; "none": all is training.
        fold: 1..3, of "published".
        validation, test: shares of the subjects, 0 for none.
    """

    by: str = "seed"
    fold: int = 1
    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if self.by not in BY or self.fold not in (1, 2, 3):
            raise ValueError(f"split: by {self.by!r} is one of {', '.join(BY)}, fold {self.fold} is 1, 2 or 3")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError("split: validation and test are shares >= 0 that leave something for training")


def assign(config: SplitConfig, subjects: Collection[str], source: str, seed: int) -> dict[str, str]:
    """The split of each subject. Adding a subject moves few others: the order is that of a hash.

    Args:
        subjects: everybody. source: name of the data set. seed: of the draw.

    Raises:
        ValueError: fewer subjects than splits, no published list, or subjects that it lacks.
    """
    chosen = dict.fromkeys(subjects, "train")
    if config.by == "none":
        return chosen
    if config.by == "published":
        held = _published(config.fold, subjects, source)
        wanted = {"validation": config.validation}
        chosen |= dict.fromkeys(held, "test")
    else:
        wanted = {"test": config.test, "validation": config.validation}
    left = sorted((name for name in subjects if chosen[name] == "train"), key=lambda name: _place(seed, name))
    parts = 1 + sum(share > 0 for share in wanted.values())
    if len(left) < parts:
        raise ValueError(
            f"split: {len(left)} subject(s) cannot be shared out to {parts} splits without sharing a person: set "
            "split.validation and split.test to 0, or split.by to none"
        )
    total = len(left)
    for split, share in wanted.items():
        count = max(1, round(share * total)) if share else 0
        count = min(count, len(left) - 1)
        chosen |= dict.fromkeys(left[:count], split)
        left = left[count:]
    return chosen


def published() -> dict[str, dict[str, Any]]:
    """The lists of `published_splits.toml`: ``source`` and ``folds`` by data set."""
    data = pkgutil.get_data(__name__, "published_splits.toml")
    assert data is not None
    return tomllib.loads(data.decode("utf-8"))


def _published(fold: int, subjects: Collection[str], source: str) -> set[str]:
    lists = published()
    if source not in lists:
        raise ValueError(f'split: no published folds of {source} are known, only of {", ".join(lists)}: by = "seed"')
    folds = [set(names) for names in lists[source]["folds"]]
    strangers = sorted(set(subjects) - set.union(*folds))
    if strangers:
        raise ValueError(f"split: the published folds of {source} do not have {', '.join(strangers[:8])}")
    held = folds[fold - 1] & set(subjects)
    if not held:
        raise ValueError(f"split: no subject of fold {fold} of {source} is there")
    return held


def _place(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def repeats(present: Sequence[Sequence[str]], balance: float) -> np.ndarray:
    """How often each picture comes in an epoch, (N,) float32 >= 1: pictures of rare units more often.

    Repeat factor sampling (Gupta et al. 2019, "LVIS", section 4.1): a unit on the share f of the pictures asks for
    sqrt(balance / f), and a picture takes the most that one of its units asks for.

    Args:
        present: codes of the units of each picture.
        balance: share in 0..1 below which a unit is rare; 0 repeats nothing.
    """
    counts = unit_counts(present)
    wanted = {code: max(1.0, (balance * len(present) / count) ** 0.5) for code, count in counts.items()}
    factors = [max((wanted[code] for code in codes), default=1.0) for codes in present]
    return np.array(factors, dtype=np.float32)


def unit_counts(present: Sequence[Sequence[str]], weights: np.ndarray | None = None) -> Mapping[str, float]:
    """On how many pictures each code is, each picture counted ``weights`` times."""
    counts: dict[str, float] = {}
    for row, codes in enumerate(present):
        for code in codes:
            counts[code] = counts.get(code, 0.0) + (1.0 if weights is None else float(weights[row]))
    return counts


def repeated(factors: np.ndarray) -> np.ndarray:
    """Sample numbers in which each stands as often as its factor says; the broken part is drawn, always alike."""
    drawn = np.random.default_rng(0).random(len(factors))
    times = np.floor(factors).astype(np.int64) + (drawn < factors % 1)
    return np.repeat(np.arange(len(factors)), times)
