"""Text back to action units: exact for texts of `describe`, a best effort with a confidence for free text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.levels import LETTERS
from auface_diffusers.facs.lexicon import UNSCORED, lexicon
from auface_diffusers.facs.notation import Key, NotationError, parse_alternatives
from auface_diffusers.facs.phrases import pattern
from auface_diffusers.facs.units import load_table, units

MAX_CHARS = 20_000

_BREAK = re.compile(r"[.;,:!?\n]|\b(?:and|while|but|with(?! (?:\w+ )?(?:left|right)\b)|as)\b")
_JOINER = re.compile(r"(?:[\s.;,+]|and\b|while\b)+")
_CODER = re.compile(
    r"(?P<score>[LRUA]?M?\d{1,2}(?:[A-E]|=[\d.e-]+)?(?::[TB])?) \((?P<name>[^()]*(?:\([^()]*\))?[^()]*)\)", re.I
)
_CODE = re.compile(r"(?<![\w.])(?:[LR] ?)?A[UD] ?[LR]?\d{1,2}[A-E]?(?![\w.])", re.I)


class TextReading(AUSet):
    """What a text says: an `AUSet`, with how sure each unit is and what was not understood.

    Attributes:
        confidence: 1.0 if every word was understood; else the least sure unit's confidence, lowered by the share
            of the text that stayed unread. 0.0 if nothing was understood.
        by_unit: confidence (0..1) of each unit, by name as in ``items()``.
        unread: the clauses that say nothing known.
    """

    confidence: float
    by_unit: Mapping[str, float]
    unread: tuple[str, ...]


def read_text(text: str) -> TextReading:
    """Read a description back to its score.

    ``read_text(describe(x).text) == resolve(x).effective.round()`` for every style but ``"tags"`` and every seed;
    for levels that are letters that is the effective score itself, and style ``"coder"`` keeps other levels too.
    Other text is matched against common wordings, clause by clause.

        >>> read_text("She raises one brow and smirks").format()
        'U1+U2+U12'

    Raises:
        ValueError: the text is longer than 20,000 characters.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"{len(text)} characters are too long for one description: the limit is {MAX_CHARS}")
    text = " ".join(text.split())
    whole = _Reader(text)
    subject = _subject().match(whole.lower)
    if subject:
        # a subject of ours is followed by a text of ours; anybody else's portrait is read from its first word
        rest = _Reader(text[subject.end() :])
        rest.run()
        if rest.exact and rest.text:
            return rest.reading()
    whole.run()
    return whole.reading()


class _Reader:
    """Scans a text: known phrases first, else the clause up to the next break goes to the free-text table."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        self.levels: dict[Key, float] = {}
        self.unscored: set[Key] = set()
        self.sure: dict[Key, float] = {}
        self.unread: list[str] = []
        self.exact = True

    def run(self) -> None:
        at = 0
        while at < len(self.text):
            gap = _JOINER.match(self.lower, at) or _frame().match(self.lower, at)
            at = gap.end() if gap else self._phrase(at) or self._coder(at) or self._free(at)

    def _phrase(self, at: int) -> int:
        """Read the longest known phrase that starts here; 0 if there is none."""
        from auface_diffusers.facs.phrasebook import phrasebook  # not needed by whoever never reads a text

        book = phrasebook()
        word = self.lower[at : at + 40].split(" ")[0]
        best, said = 0, {}
        for phrase in (*book.get(word, ()), *book.get("", ())):
            if self.lower.startswith(phrase.starts, at):
                match = phrase.regex.match(self.lower, at)
                if match and match.end() > best:
                    best, said = match.end(), phrase.scores(match)
        for key, level_word in said.items():
            self._add(key, level_word, 1.0)
        return best

    def _coder(self, at: int) -> int:
        """Read ``L12D (lip corner puller, left)``; 0 if the name is not the unit's."""
        match = _CODER.match(self.text, at)
        if match is None:
            return 0
        try:
            ((levels, unscored),) = parse_alternatives(match["score"], warn=False)
        except NotationError:
            return 0
        if not any(match["name"].lower().startswith(units[code].name.lower()) for code, _ in levels or {("0", ""): 0}):
            return 0
        for key, level in levels.items():
            self._set(key, level, key not in unscored, 1.0)
        return match.end()

    def _free(self, at: int) -> int:
        """Look the clause up to the next break up in the free-text table; return where it ends."""
        stop = _BREAK.search(self.lower, at + 1)
        end = stop.start() if stop else len(self.text)
        clause = self.lower[at:end].strip()
        self.exact = False
        if not self._free_units(clause, self.text[at:end]) and any(c.isalnum() for c in clause):
            self.unread.append(self.text[at:end].strip())
        return max(end, at + 1)

    def _free_units(self, clause: str, original: str) -> bool:
        table = _free_table()
        found = False
        for match in _CODE.finditer(original):
            try:
                code = AUSet.parse(match.group())
            except NotationError:
                continue
            found = True
            for key, level in code.parts.items():
                self._set(key, level, key not in code.unscored, 0.9)
        if table["negation"].search(clause):
            return found
        for words, aus, confidence in table["phrases"]:
            clause, hits = words.subn(" ", clause) if words.search(clause) else (clause, 0)
            if hits:
                found = True
                self._add_free(aus, confidence, original.lower())
        return found

    def _add_free(self, aus: AUSet, confidence: float, clause: str) -> None:
        table = _free_table()
        level = next(
            (float(LETTERS.index(letter) + 1) for words, letter in table["levels"] if words.search(clause)), None
        )
        sides = {side for side in "LR" if re.search(rf"\b{'left' if side == 'L' else 'right'}\b", clause)}
        side = sides.pop() if len(sides) == 1 else "U" if table["one"].search(clause) else ""
        for key, value in aus.parts.items():
            code, part = key
            if side and units[code].parts == "sides":
                key = (code, side)
            scored = key not in aus.unscored and part not in ("U",) and value != units[code].unscored_level
            self._set(key, value if level is None or scored else level, scored or level is not None, confidence)

    def _add(self, key: Key, level_word: str, confidence: float) -> None:
        scored = level_word != UNSCORED
        level = float(LETTERS.index(level_word) + 1) if scored else units[key[0]].unscored_level
        self._set(key, level, scored, confidence)

    def _set(self, key: Key, level: float, scored: bool, confidence: float) -> None:
        if level > self.levels.get(key, 0.0):
            self.levels[key] = level
            (self.unscored.discard if scored else self.unscored.add)(key)
        self.sure[key] = max(confidence, self.sure.get(key, 0.0))

    def reading(self) -> TextReading:
        reading = TextReading.from_keys(self.levels, self.unscored)
        assert isinstance(reading, TextReading)
        unread = sum(map(len, self.unread)) / max(1, len(self.text.strip()))
        least = min(self.sure.values(), default=1.0 if self.exact and self.text.strip() else 0.0)
        reading.confidence = round(least * (1 - min(1.0, unread)), 3)
        reading.by_unit = {
            name: min(self.sure[key] for key in AUSet({name: 1.0}).parts if key in self.sure) for name in reading
        }
        reading.unread = tuple(self.unread)
        return reading


@lru_cache(maxsize=1)
def _subject() -> re.Pattern[str]:
    """The sentence on who is shown."""
    return re.compile(rf"{re.escape(lexicon().frame['subject'].lower())}.*?\.(?: |$)")


@lru_cache(maxsize=1)
def _frame() -> re.Pattern[str]:
    """Words around the clauses: openings, the emotion sentence, the neutral texts."""
    frame = lexicon().frame
    parts = [pattern(opening, "", {}) for opening in frame["openings"]]
    parts.append(rf"{re.escape(frame['emotion'].lower())}[^.]*\.?")
    parts += [pattern(frame["neutral"], "", {}), re.escape(frame["neutral_compact"])]
    return re.compile("(?:" + "|".join(parts) + ")")


@lru_cache(maxsize=1)
def _free_table() -> dict[str, Any]:
    table = load_table("lexicon/en_free.toml")
    words = table["words"]
    return {
        "negation": re.compile(words["negation"]),
        "one": re.compile(words["one"]),
        "levels": [(re.compile(expression), letter) for expression, letter in words["levels"]],
        "phrases": [
            (re.compile(rf"\b(?:{row['words']})"), AUSet.parse(row["aus"]), row["confidence"])
            for row in table["phrase"]
        ],
    }
