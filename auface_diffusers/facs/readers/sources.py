"""The table of sources: how each one names its columns, and when it counts a unit as present."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.facs.readers.base import ReaderError

LEVELS = (math.ulp(0.0), MAX_LEVEL)
"""Allowed thresholds on levels. The smallest float means: any level above 0."""
PROBABILITIES = (0.0, 1.0)
EVIDENCE = (-math.inf, math.inf)

BOX = ("x", "y", "width", "height")
"""Roles of the columns with the face box, in pixels."""


@dataclass(frozen=True)
class Source:
    """One kind of annotation.

    Args:
        name: what to pass as ``source``.
        description: what writes it, and what the path may be.
        presence: the rule that decides whether a unit is present.
        threshold: default of ``threshold``; None if the source has none, or needs none by default.
        limits: allowed thresholds (least, most); None if the source has no threshold.
        expected: example of its columns or files, for error messages.
        scale: ``"level"`` 0..5 with or without 0/1 flags, ``"probability"``, ``"evidence"`` or ``""`` (no table).
        columns: pattern of a label column: group ``code``, and ``flag`` (0/1) or ``value`` takes part in the match.
        coded: label in units.toml; where given, columns of other units are ignored.
        meta: columns that say what a row is about, by role, in order of preference; upper and lower case are alike.
        whole_frames: whether frames must be whole numbers.
        slack: how far levels may lie outside 0..5; they are cut to 0..5.
        letters: whether levels may be letters A..E.
    """

    name: str
    description: str
    presence: str
    threshold: float | None = None
    limits: tuple[float, float] | None = None
    expected: str = ""
    scale: str = field(default="", repr=False)
    columns: re.Pattern[str] | None = field(default=None, repr=False)
    coded: str = field(default="", repr=False)
    meta: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    whole_frames: bool = field(default=False, repr=False)
    slack: float = field(default=0.0, repr=False)
    letters: bool = field(default=False, repr=False)

    def checked_threshold(self, threshold: float | None) -> float | None:
        """The threshold to use. Raises `ReaderError` if this source has none, or for a value outside its limits."""
        if threshold is None:
            return self.threshold
        if self.limits is None:
            raise ReaderError(f"source {self.name} has no threshold: {self.presence}")
        low, high = self.limits
        if not isinstance(threshold, int | float) or not (low <= threshold <= high and math.isfinite(threshold)):
            shown = {LEVELS: f"above 0, up to {MAX_LEVEL:g}", EVIDENCE: "any finite number"}.get(
                self.limits, f"a number in {low:g}..{high:g}"
            )
            raise ReaderError(f"threshold={threshold!r} of source {self.name}: allowed is {shown}")
        return float(threshold)


_BP4D = "occurrence 1 in AU_OCC; 9 is unknown. The level comes from AU_INT where that was coded"
_DISFA = "intensity >= threshold (1 = A; many papers use 2); 9 is unknown"
_FRAME = {"frame": ("frame",), "subject": ("subject",), "face": ("face", "face_id"), "image": ("image",)}

_SOURCES = (
    Source(
        "bp4d",
        "BP4D: AUCoding, AU_OCC or one of its files such as F001_T1.csv; AU_INT beside AU_OCC is read too",
        _BP4D,
        expected="AU_OCC/F001_T1.csv whose header has AU numbers",
        scale="level",
        columns=re.compile(r"(?P<code>[0-9]+)(?P<flag>)"),
        coded="bp4d",
        whole_frames=True,
    ),
    Source(
        "bp4d+",
        "BP4D+: as bp4d, tasks T1 T6 T7 T8. Frame f is taken for image f-1, as its users report: check your copy",
        _BP4D,
        expected="AU_OCC/F001_T1.csv whose header has AU numbers",
        scale="level",
        columns=re.compile(r"(?P<code>[0-9]+)(?P<flag>)"),
        coded="bp4d+",
        whole_frames=True,
    ),
    Source(
        "disfa",
        "DISFA: the folder with ActionUnit_Labels, that folder, or a subject in it",
        _DISFA,
        threshold=1.0,
        limits=LEVELS,
        expected="ActionUnit_Labels/SN001/SN001_au1.txt",
        coded="disfa",
    ),
    Source(
        "disfa+",
        "DISFA+: the folder with Labels, that folder, a subject or a trial in it",
        _DISFA,
        threshold=1.0,
        limits=LEVELS,
        expected="Labels/SN001/A1_AU1_TrailNo_1/AU1.txt",
        coded="disfa+",
    ),
    Source(
        "ck+",
        "CK+: the folder with FACS, that folder, a part of it, or one file",
        "listed in the file; intensity 0 means that it was not scored. The other coded units are absent",
        expected="FACS/S005/001/S005_001_00000011_facs.txt",
        coded="ck+",
    ),
    Source(
        "unbc",
        "UNBC-McMaster: the folder with Frame_Labels, Frame_Labels, FACS, a part of it, or one file",
        "listed with intensity >= threshold (1 = A); an empty file is a neutral face. 43 is coded 0/1",
        threshold=1.0,
        limits=LEVELS,
        expected="Frame_Labels/FACS/<subject>/<sequence>/<frame>_facs.txt",
        coded="unbc",
    ),
    Source(
        "openface",
        "OpenFace 2 CSV",
        "AUxx_c = 1 where the column exists, else AUxx_r >= threshold (1 = A). A threshold given by the caller is "
        "applied to every unit with AUxx_r. success = 0: all unknown",
        threshold=1.0,
        limits=LEVELS,
        expected="AU01_r, AU01_c, ...",
        scale="level",
        columns=re.compile(r"AU(?P<code>[0-9]+)_(?:r(?P<value>)|c(?P<flag>))"),
        meta={
            "frame": ("frame",),
            "face": ("face_id", "face"),
            "confidence": ("confidence",),
            "success": ("success",),
        },
        whole_frames=True,
    ),
    Source(
        "openface3",
        "OpenFace 3 (openface-test) CSV: a column action_units, or AU01..AU08, which are positions and no AU numbers",
        "score >= threshold; scores are no intensities",
        threshold=0.5,
        limits=PROBABILITIES,
        expected="action_units, or AU01..AU08",
        scale="probability",
        columns=re.compile(r"AU(?P<code>[0-9]+)(?:_r)?(?P<value>)"),
        coded="openface3",
        meta={
            "frame": ("frame_index", "frame"),
            "face": ("face_id",),
            "image": ("image_path", "video_path"),
            "confidence": ("confidence",),
        },
    ),
    Source(
        "pyfeat",
        "py-feat CSV",
        "probability >= threshold; probabilities are no intensities. Rows of one frame are its faces",
        threshold=0.5,
        limits=PROBABILITIES,
        expected="AU01, AU02, ...",
        scale="probability",
        columns=re.compile(r"AU(?P<code>[0-9]+)(?P<value>)"),
        meta={
            "frame": ("frame",),
            "image": ("input",),
            "confidence": ("facescore",),
            **{role: (f"facerect{role}",) for role in BOX},
        },
        whole_frames=True,
    ),
    Source(
        "libreface",
        "LibreFace CSV",
        "au_k = 1 where the column exists, else au_k_intensity >= threshold (1 = A). A threshold given by the caller "
        "is applied to every unit with au_k_intensity",
        threshold=1.0,
        limits=LEVELS,
        expected="au_1, au_1_intensity, ...",
        scale="level",
        columns=re.compile(r"au_(?P<code>[0-9]+)(?:_intensity(?P<value>)|(?P<flag>))"),
        meta={"frame": ("frame_idx",)},
        whole_frames=True,
        # LibreFace 0.2.0 cuts its regression to 0..5 in solver_inference_image.py:120, but not in
        # solver_inference_combine.py:137, where the video network has no sigmoid either: values just outside occur.
        slack=1.0,
    ),
    Source(
        "imotions",
        "iMotions export (tab separated, '#' comments on top) with FACET's AU columns; rows of other sensors, which "
        "repeat the last value, are skipped",
        "evidence (base-10 log odds) > threshold; evidence is no intensity",
        threshold=0.0,
        limits=EVIDENCE,
        expected="AU1 Evidence, AU2 Evidence, ...",
        scale="evidence",
        columns=re.compile(r"AU(?P<code>[0-9]+) Evidence(?P<value>)"),
        meta={
            "frame": ("frameno",),
            "subject": ("name",),
            "task": ("stimulusname",),
            "faces": ("nooffaces",),
            "sensor": ("eventsource",),
            **{role: (f"facerect {role}",) for role in BOX},
        },
        whole_frames=True,
    ),
    Source(
        "csv",
        "any CSV: a column aus (or codes) with FACS notation, or columns named after units (12, AU12, L12, AU12_r) "
        "with levels 0..5 or letters, AU12_c with 0/1; optional frame, subject, task, face, image, confidence",
        "level > 0, or >= threshold if one is given; AU12_c decides where it exists and no threshold is given",
        limits=LEVELS,
        expected="aus, or 12, AU12, L12, AU12_r, ...",
        scale="level",
        columns=re.compile(
            r"(?P<code>[LRUA]?(?:AU|AD)?[LR]?M?[0-9]+(?::[TB])?)(?:_c(?P<flag>)|(?:_r)?(?P<value>))", re.IGNORECASE
        ),
        meta={**_FRAME, "task": ("task",), "confidence": ("confidence",), "aus": ("aus", "codes")},
        letters=True,
    ),
    Source(
        "jsonl",
        'JSON Lines: {"frame": 3, "aus": "1C+L12D"} or {"frame": 3, "aus": {"12": 3}}; optional subject, task, face, '
        "image, confidence, and the lists unknown and absent",
        "level > 0, or >= threshold if one is given; null is present without an intensity",
        limits=LEVELS,
        expected='{"frame": ..., "aus": ...}',
    ),
)


def sources() -> dict[str, Source]:
    """The known sources by name: description, presence rule and default threshold of each."""
    return {source.name: source for source in _SOURCES}


def get_source(name: str) -> Source:
    """Look up a source. Raises `ReaderError` that lists the known ones."""
    found = sources().get(name)
    if found is None:
        raise ReaderError(f"source {name!r} is not known; known are auto, {', '.join(sources())}")
    return found
