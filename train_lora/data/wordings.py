"""Training texts: the processor's own in every style, and what people would type, for any score.

Everything follows from the generator that is given. Free wordings say levels and combinations only coarsely.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from auface_diffusers.facs import AUSet, Subject, describe, resolve, units
from auface_diffusers.facs.levels import LETTERS, grade
from auface_diffusers.facs.notation import Key, joined
from auface_diffusers.facs.presets import DEFAULT_STRENGTH, Preset, preset, presets

SHARES = {"anatomical": 0.32, "compact": 0.1, "tags": 0.03, "coder": 0.06, "codes": 0.07, "free": 0.42}
"""Share of each kind of text."""
UNSAID = {1: 0.05, 2: 0.15, 3: 0.5, 4: 0.15, 5: 0.05}
"""How often a free wording leaves the level (1..5) out: a plain "smile" is most often a C."""
TYPOS, NOISE = 0.04, 0.15
"""Share of free texts with a typing error, and with other case or punctuation."""
MAX_SPREAD = 1.0
"""Levels by which units may differ and still be said by one phrase."""

_SLOT = re.compile(r"\{(adv|adj|side|s|lips|to)\}|\[([^\[\]]+)\]")
_LIMIT = re.compile(r"([A-E]+):(.*)")
_AGES = ("", "", "young", "old", "middle-aged", 25, 38, 52, 70)
_GENDERS = ("", "woman", "man")
_SKINS = ("", "", "fair", "brown", "dark", "olive")
_HAIRS = ("", "", "short black", "long blond", "curly brown", "grey", "bald")


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """The phrases of ``wordings.toml``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))


def wordings(rng: random.Random, aus: AUSet, kind: str | None = None) -> str:
    """One random text that says ``resolve(aus).effective``.

    Args:
        rng: decides everything.
        aus: the score.
        kind: a key of `SHARES`; None draws one.

    Raises:
        ValueError: unknown ``kind``.
    """
    if kind is None:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind not in SHARES:
        raise ValueError(f"kind {kind!r}: allowed are {', '.join(SHARES)}")
    if kind == "codes":
        return _codes(rng, resolve(aus).effective)
    if kind == "free":
        return free_wording(rng, resolve(aus).effective)
    seed = None if kind != "anatomical" or rng.random() < 0.15 else rng.randrange(2**31)
    subject = _subject(rng) if rng.random() < 0.4 else None
    return describe(aus, kind, seed, subject=subject, emotion=rng.random() < 0.05).text


def _subject(rng: random.Random) -> Subject | str:
    if rng.random() < 0.3:
        return rng.choice(table()["frame"]["who"])
    looks = (rng.choice(words) for words in (_AGES, _GENDERS, _SKINS, _HAIRS))
    return Subject(**dict(zip(("age", "gender", "skin", "hair"), looks, strict=True)))


# --- codes -------------------------------------------------------------------------------------------------------


def _codes(rng: random.Random, aus: AUSet) -> str:
    """The score in one of the ways in which people write codes."""
    if not aus:
        return rng.choice(("0", "AU0", "neutral (0)", "no action units"))
    if rng.random() < 0.15:
        return aus.format()  # levels with decimals
    rounded = aus.round()
    if rng.random() < 0.35:
        return rounded.format()
    write = rng.choice(_CODE_FORMS)
    said = [write(*_split(name), level) for name, level in rounded.items()]
    text = rng.choice((", ", " + ", " ", " and ")).join(said)
    return rng.choice(("", "", "", "face with ", "action units: ", "FACS: ")) + text


def _split(name: str) -> tuple[str, str, str]:
    """``"L12"`` to side, code and lip: ``("left", "12", "")``."""
    code, _, lip = name.partition(":")
    side = {"L": "left", "R": "right"}.get(code[0], "")
    return side, code[1:] if side else code, {"T": "upper lip", "B": "lower lip"}.get(lip, "")


def _code_form(pattern: str) -> Callable[[str, str, str, float], str]:
    def write(side: str, code: str, lip: str, level: float) -> str:
        place = " ".join(word for word in (side, lip) if word)
        told = pattern.format(code=code, letter=LETTERS[grade(level) - 1], number=grade(level), side=side[:1].upper())
        return f"{told} ({place})" if lip or (side and "{side}" not in pattern) else told

    return write


_CODE_FORMS = tuple(
    map(
        _code_form,
        (
            "{side}AU{code}{letter}",
            "AU{code} at level {letter}",
            "AU {code}: {number}",
            "AU{code}={number}",
            "au{code} intensity {number}",
            "{side}{code}{letter}",
            "AU{code} ({letter})",
        ),
    )
)


# --- free wordings -----------------------------------------------------------------------------------------------


def free_wording(rng: random.Random, aus: AUSet) -> str:
    """What somebody might type for a score, with its slips."""
    return _slips(rng, _framed(rng, list(_items(rng, aus))))


def phrases(rng: random.Random, code: str, part: str, level: float, scored: bool = True) -> list[tuple[str, str]]:
    """All wordings of one unit, slots filled at random: pairs of "with" or "doing" and the words.

    ``part`` is "", L, R, T or B, "" for both sides or lips; ``level`` lies in (0, 5].
    """
    return [(how, _filled(rng, text, part, level, scored)) for how, text in _allowed(table()["unit"][code], level)]


def _items(rng: random.Random, aus: AUSet) -> Iterator[tuple[str, str]]:
    """Phrases that say the score, each with how it goes on: "with" or "doing"."""
    if not aus:
        yield rng.choice(phrases(rng, "0", "", 3.0, scored=False))
        return
    left = [(*_key(name), level, scored) for name, level, scored in joined(aus.parts, aus.unscored)]
    found = [case for case in (_emotion(case, aus) for case in _usable_presets()) if case]
    if found and rng.random() < (0.6 if any(case[0].aus.codes == aus.codes for case in found) else 0.12):
        case, strength = rng.choice(found)
        yield from _emotion_words(rng, case, strength)
        left = [score for score in left if score[0] not in case.aus.codes]
    said = []
    for units_together, row in table()["together"].items():
        codes = units_together.split("+")
        scores = [score for score in left if score[0] in codes]
        if len(scores) == len(codes) and _as_one(scores) and rng.random() < 0.5:
            level = sum(score[2] for score in scores) / len(scores)
            how, text = rng.choice(_allowed(row, level))
            said.append((how, _filled(rng, text, scores[0][1] or scores[-1][1], level, scores[0][3])))
            left = [score for score in left if score not in scores]
    said += [rng.choice(phrases(rng, *score)) for score in left]
    rng.shuffle(said)
    yield from said


def _key(name: str) -> Key:
    code, _, lip = name.partition(":")
    return (code[1:], code[0]) if code[0] in "LRUA" else (code, lip)


def _as_one(scores: Sequence[tuple[str, str, float, bool]]) -> bool:
    """Whether units share a side and, roughly, a level."""
    parts = {part for code, part, _, _ in scores if units[code].parts != "whole"}
    levels = [level for _, _, level, _ in scores]
    return len(parts) < 2 and max(levels) - min(levels) <= MAX_SPREAD


def _allowed(row: dict[str, list[str]], level: float) -> list[tuple[str, str]]:
    """Wordings for a level: those that are not for other levels."""
    out = []
    for how in ("with", "doing"):
        for text in row.get(how, ()):
            limit = _LIMIT.fullmatch(text)
            if limit is None or LETTERS[grade(level) - 1] in limit[1]:
                out.append((how, text))
    return out


def _filled(rng: random.Random, text: str, part: str, level: float, scored: bool) -> str:
    """Put side and level into a wording."""
    limit = _LIMIT.fullmatch(text)
    text = limit[2] if limit else text
    sides, words = table()["sides"], table()["levels"]
    said = not limit and scored and rng.random() >= UNSAID[grade(level)]
    number = grade(level) - 1
    side = {"L": "left", "R": "right"}.get(part, "")
    values = {
        "adv": rng.choice(words["adv"][number]) if said else "",
        "adj": rng.choice(words["adj"][number]) if said else "",
        "side": side,
        "s": "" if part in ("L", "R", "U") else "s",
        "lips": rng.choice(sides[{"T": "top", "B": "bottom"}[part]]) if part in ("T", "B") else "lips",
        "to": side or "one",
    }
    if text.endswith("{adv}"):
        values["adv"] = rng.choice(words["end"][number]) if said else ""
    done = _article(" ".join(_put(rng, text, values).split()))
    if said and "{adv}" not in text and "{adj}" not in text:
        done += rng.choice((", {}", " ({})", " {}")).format(rng.choice(words["end"][number]))
    if part in sides and not (side and ("{side}" in text or "{to}" in text)):
        done += " " + rng.choice(sides[part])
    elif not part and "{side}" in text and rng.random() < 0.08:
        done += " " + rng.choice(sides["both"])
    return done


def _put(rng: random.Random, text: str, values: dict[str, str]) -> str:
    """Fill the slots of a wording; a level or side brings its own blank."""

    def fill(match: re.Match[str]) -> str:
        if match[2]:
            return rng.choice(match[2].split("|"))
        value = values[match[1]]
        return value + " " if value and match[1] in ("adv", "adj", "side") else value

    return _SLOT.sub(fill, text)


def _article(text: str) -> str:
    """``"a hint of a smile"`` and ``"an extreme smile"`` where a level word came behind "a"."""
    return re.sub(r"\ba (?=[aeio])", "an ", re.sub(r"\ba a (?=hint|trace)", "a ", text))


def _framed(rng: random.Random, items: list[tuple[str, str]]) -> str:
    """Phrases joined and put behind a prefix."""
    frame = table()["frame"]
    after = rng.choice(frame["after"])
    if rng.random() < 0.5:
        joiner = rng.choice((", ", rng.choice(frame["and"])))
        return rng.choice(frame["bare"]) + joiner.join(text for _, text in items) + after
    text = rng.choice(frame["before"]).format(who=rng.choice(frame["who"]))
    doing = [words for how, words in items if how == "doing"]
    having = [words for how, words in items if how == "with"]
    for words, starts in ((doing, frame["is"]), (having, frame["has"])):
        if words:
            joiner = rng.choice(frame["and"])
            *first, last = words
            listed = ", ".join(first) + joiner + last if first else last
            text += rng.choice(starts) + listed
    return text + after


# --- emotion words -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _usable_presets() -> tuple[Preset, ...]:
    """Prototypes that their own name finds: where two sources give a word, it means the first one's."""
    return tuple(case for case in presets() if preset(case.name).parts == case.aus.parts)


def _emotion(case: Preset, aus: AUSet) -> tuple[Preset, float] | None:
    """The strength at which a prototype is in a score, or None: its units must all be there, in its proportions."""
    parts = case.aus.parts
    if any(key not in aus.parts for key in parts) or any(
        code in case.aus.codes and (code, part) not in parts for code, part in aus.parts
    ):
        return None
    strength = sum(aus.parts[key] for key in parts) / sum(parts.values()) * DEFAULT_STRENGTH
    expected = case.aus.scale(strength / DEFAULT_STRENGTH).parts
    close = all(abs(aus.parts[key] - expected[key]) <= MAX_SPREAD for key in parts)
    return (case, strength) if close else None


def _emotion_words(rng: random.Random, case: Preset, strength: float) -> Iterator[tuple[str, str]]:
    words = table()["emotion"].get(case.name, {"is": [case.name, *case.aliases], "of": []})
    adverb = rng.choice(table()["levels"]["strength"][grade(min(5.0, 5 * strength)) - 1])
    if words["of"] and rng.random() < 0.3:
        adverb = "strong" if strength > 0.7 else "slight" if strength < 0.5 else ""
        yield "with", f"an expression of {adverb} {rng.choice(words['of'])}".replace("  ", " ")
        return
    feeling = " ".join(f"{adverb} {rng.choice(words['is'])}".split())
    how, form = rng.choice(
        (("with", "a {} face"), ("with", "a {} expression"), ("doing", "{}"), ("doing", "looking {}"))
    )
    yield how, _article(form.format(feeling).replace("a a ", "a "))


# --- slips -------------------------------------------------------------------------------------------------------


def _slips(rng: random.Random, text: str) -> str:
    """Typing errors, case and punctuation as people leave them."""
    if rng.random() < TYPOS:
        text = _mistyped(rng, text)
    if rng.random() < NOISE:
        noise = (str.upper, str.title, lambda s: s.replace(", ", ","), lambda s: s.replace(" ", "  ", 1))
        text = rng.choice(noise)(text)
    elif rng.random() < 0.4:
        text = text[:1].upper() + text[1:]
    return text + rng.choices(("", ".", "!", " "), (0.7, 0.26, 0.02, 0.02))[0]


def _mistyped(rng: random.Random, text: str) -> str:
    """One letter of a long word swapped, lost or doubled. Short words stay: "left" and "right" must not change."""
    words = list(re.finditer(r"[a-z]{6,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    changed = rng.choice((text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]))
    return text[:at] + changed + text[at + 2 :]
