"""What a face is asked to show: codes, text or both, to what is drawn and what is said."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from auface_diffusers.facs import AUSet, NotationError, Resolution, describe, read_text, resolve

UNTOLD_SIDE: Literal["L", "R"] = "L"
"""Where "one side" (U) is drawn, and the stronger one of "both, one stronger" (A): a picture has to choose."""
CONFIDENT = 0.5
"""`TextReading.confidence` from which free text is taken as ``read_text`` understands it."""
_WORD = re.compile(r"[^\W\d_]{3,}")
"""A word: notation has none."""

T = TypeVar("T")
Asked = AUSet | str
Read = Callable[[str], AUSet]
Fits = Callable[[str], bool]


@dataclass(frozen=True)
class Expression:
    """One face's expression.

    Attributes:
        resolution: of the score that was asked for or read from the text; its ``effective`` part is drawn.
        text: what the text encoder is given.
    """

    resolution: Resolution
    text: str

    @property
    def effective(self) -> AUSet:
        """The score that is drawn."""
        return self.resolution.effective


def gather_expressions(
    expression: Asked | Sequence[Asked] | None,
    prompt: str | Sequence[str] | None,
    aus: Asked | Sequence[Asked] | None,
    read: Read,
    fits: Fits,
) -> list[Expression]:
    """One `Expression` a face.

    Args:
        expression: scores, their notation, or texts. prompt: texts. aus: scores or their notation. Each is one or a
            list; prompts and scores of the same number go together.
        read: what a text model reads from a text that ``read_text`` does not understand.
        fits: whether a text is short enough for the text model.

    Raises:
        ValueError: nothing or too much is given, or a text does not say what its score says.
    """
    wishes = _wishes(expression, prompt, aus)
    return [_one(score, text, read, fits) for score, text in wishes]


def _wishes(
    expression: Asked | Sequence[Asked] | None, prompt: str | Sequence[str] | None, aus: Asked | Sequence[Asked] | None
) -> list[tuple[AUSet | None, str | None]]:
    """Score and text of each face; one of them may be None."""
    if expression is not None:
        if prompt is not None or aus is not None:
            raise ValueError("give the expression by position, or aus= and prompt=: not both")
        return [_score_or_text(one) for one in _listed("expression", expression)]
    if prompt is not None and aus is None:  # people write notation there as well
        return [_score_or_text(_text(one)) for one in _listed("prompt", prompt)]
    scores = [_score(one) for one in _listed("aus", aus)] if aus is not None else []
    texts = [_text(one) for one in _listed("prompt", prompt)] if prompt is not None else []
    if not scores and not texts:
        raise ValueError("nothing to draw: give an expression such as '1C+2C+26C', aus= or prompt=; '0' is neutral")
    count = max(len(scores), len(texts))
    for name, given in (("aus", scores), ("prompt", texts)):
        if len(given) not in (0, 1, count):
            raise ValueError(f"{name}: {len(given)} for {count} faces; give one, or one a face")
    return [(_of(scores, row), _of(texts, row)) for row in range(count)]


def _of(values: Sequence[T], row: int) -> T | None:
    return None if not values else values[row % len(values)]


def _listed(name: str, given: Asked | Sequence[Asked]) -> list[Asked]:
    if not isinstance(given, str | AUSet | Sequence):
        raise ValueError(f"{name} {given!r}: give an AUSet, notation such as '1C+2C', a text, or a list")
    listed = [given] if isinstance(given, str | AUSet) else list(given)
    if not listed:
        raise ValueError(f"{name} is an empty list: give at least one; '0' is neutral")
    return listed


def _score(given: Asked) -> AUSet:
    if not isinstance(given, str | AUSet):
        raise ValueError(f"aus {given!r}: give an AUSet or notation such as '1C+2C'")
    return AUSet.parse(given) if isinstance(given, str) else given


def _text(given: Asked) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"prompt {given!r}: give a text; for a neutral face aus='0'")
    return given


def _score_or_text(given: Asked) -> tuple[AUSet | None, str | None]:
    if not isinstance(given, str):
        return _score(given), None
    try:
        return AUSet.parse(given), None
    except NotationError:
        if not _WORD.search(given):  # a slip in a score is no text
            raise
    return None, given


def _one(score: AUSet | None, text: str | None, read: Read, fits: Fits) -> Expression:
    if score is None:
        assert text is not None
        score = read_prompt(text, read)
    elif text is not None:
        check_agreement(text, score)
    done = resolve(score.choose_side(UNTOLD_SIDE))
    if text is not None:
        if not fits(text):
            warnings.warn(f"the prompt is too long, its end is not seen: {text[:60]!r}...", stacklevel=2)
        return Expression(done, text)
    said = describe(done.raw).text
    return Expression(done, said if fits(said) else describe(done.raw, "compact").text)


def read_prompt(prompt: str, read: Read) -> AUSet:
    """The score of a text: what ``read_text`` understands, or else what the model reads, with a warning."""
    reading = read_text(prompt)
    if reading.confidence < CONFIDENT:
        found = read(prompt)
        warnings.warn(f"the text model reads {found.format()} from {prompt!r}; give aus= to be exact", stacklevel=2)
        return found
    if reading.unread:
        rest = ", ".join(map(repr, reading.unread))
        warnings.warn(f"read {reading.format()} from {prompt!r}; not understood: {rest}", stacklevel=2)
    return AUSet.from_keys(reading.parts, reading.unscored)


def check_agreement(prompt: str, aus: AUSet) -> None:
    """Compare what a text says with a score: exactly if every word is understood, else only which units it names.

    Raises:
        ValueError: a text of `describe` says something else than ``aus``. Free text that names other units only warns,
            for what it says is a guess.
    """
    reading = read_text(prompt)
    effective = resolve(aus).effective
    if reading.confidence == 1.0:
        if reading != effective.round() and reading != effective:
            raise ValueError(
                f"the prompt says {reading.format()} and aus {effective.format()}: they have to agree; leave one out"
            )
        return
    other = [code for code in reading.codes if code not in effective.codes]
    if reading.confidence >= CONFIDENT and other:
        named = reading.only(other).format()
        warnings.warn(f"the prompt seems to say {named}, which aus {effective.format()} lacks", stacklevel=2)
