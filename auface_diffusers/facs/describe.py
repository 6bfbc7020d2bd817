"""The dynamic AU text processor: a score to anatomical text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from auface_diffusers.facs import presets
from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.levels import grade
from auface_diffusers.facs.lexicon import Entry, lexicon
from auface_diffusers.facs.notation import Key, parse_name
from auface_diffusers.facs.phrases import render
from auface_diffusers.facs.resolution import Resolution, RuleHit
from auface_diffusers.facs.resolve import resolve
from auface_diffusers.facs.statements import Statement, statements
from auface_diffusers.facs.units import units
from auface_diffusers.facs.wording import clause, compact_items

if TYPE_CHECKING:
    import random

Style = Literal["anatomical", "compact", "tags", "coder"]
STYLES: tuple[str, ...] = get_args(Style)


@dataclass(frozen=True)
class Subject:
    """Who is shown, in plain words, every field optional: ``Subject(age=40, gender="woman", hair="short black")``.

    ``pose`` and ``gaze`` are words such as "head turned to its own left"; they do not become action units.
    """

    age: int | str = ""
    gender: str = ""
    skin: str = ""
    hair: str = ""
    pose: str = ""
    gaze: str = ""

    def phrase(self) -> str:
        """``"a 40-year-old woman with brown skin and short black hair, looking up"``."""
        age = f"{self.age}-year-old" if str(self.age).isdigit() else str(self.age)
        who = " ".join(word for word in (age, self.gender or "person") if word)
        article = "an" if who[0].lower() in "aeiou" or who.startswith(("8", "11-", "18-")) else "a"
        who = f"{article} {who}"
        skin = f"{self.skin} skin" if self.skin and "skin" not in self.skin else self.skin
        hair = "a bald head" if self.hair == "bald" else self.hair
        hair = f"{hair} hair" if hair and "hair" not in hair and "bald" not in hair else hair
        listed = " and ".join(look for look in (skin, hair) if look)
        rest = "".join(f", {words}" for words in (self.pose, self.gaze) if words)
        return f"{who} with {listed}{rest}" if listed else f"{who}{rest}"


@dataclass(frozen=True)
class Clause:
    """A piece of the text, ``text[start:end]``, and the scores that it says."""

    text: str
    start: int
    end: int
    keys: tuple[Key, ...]
    rule: str
    _effective: AUSet

    @cached_property
    def aus(self) -> tuple[str, ...]:
        """Scores said by this clause, in notation: ``("1C", "2C")``."""
        levels = {key: self._effective.parts[key] for key in self.keys}
        return tuple(AUSet.from_keys(levels, self._effective.unscored).format().split("+"))


@dataclass(frozen=True)
class Description:
    """Text of a score. ``str(description)`` is the text."""

    text: str
    style: str
    clauses: tuple[Clause, ...]
    resolution: Resolution

    @property
    def trace(self) -> tuple[RuleHit, ...]:
        """The rules that fired."""
        return self.resolution.trace

    def __str__(self) -> str:
        return self.text


def describe(
    aus: AUSet | str,
    style: Style = "anatomical",
    seed: int | None = None,
    *,
    subject: Subject | str | None = None,
    emotion: bool = False,
) -> Description:
    """Describe a score in words.

    Texts speak letters: every style but ``"coder"`` rounds levels to A..E first, and ``resolution`` is the rounded
    score's. ``read_text`` takes the text of every
    style but ``"tags"`` back to the effective score.

    Args:
        aus: the score, or its notation.
        style: "anatomical" (sentences on what the muscles visibly do), "compact" (at most 75 tokens of CLIP's
            tokenizer for up to eight units, subject and emotion not counted), "tags" (comma list for tag-trained
            checkpoints) or "coder" (codes with names).
        seed: varies the wording of the anatomical style, never the meaning; None is the canonical text. The other
            styles have one wording.
        subject: who is shown, put in front.
        emotion: add the emotion prototype that the score fits, if any; otherwise no emotion word is used.

    Raises:
        NotationError: ``aus`` is text that is no score.
        ValueError: unknown ``style``.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r}: allowed are {', '.join(STYLES)}")
    aus = AUSet.parse(aus) if isinstance(aus, str) else aus
    resolution = resolve(aus if style == "coder" else aus.round())
    builder = _Builder(resolution.effective)
    rng = None if seed is None else _generator(seed, resolution.effective)
    who = subject.phrase() if isinstance(subject, Subject) else " ".join((subject or "").split()).strip(". ")
    if who:
        who = who.replace(". ", ", ")  # one sentence, so that `read_text` knows where it ends
        builder.add(f"{lexicon().frame['subject']}{who}. " if style != "tags" else f"{who}, ")
    _WRITERS[style](builder, resolution, rng)
    if emotion:
        _add_emotion(builder, resolution.effective, style)
    return Description("".join(builder.pieces), style, tuple(builder.clauses), resolution)


def _generator(seed: int, effective: AUSet) -> random.Random:
    """Generator of the wording. The score goes in, so that one seed for a data set still varies from row to row."""
    import random  # not needed by whoever never gives a seed

    return random.Random(f"{seed} {effective.format()}")


class _Builder:
    """Text under construction, with the clauses' places in it."""

    def __init__(self, effective: AUSet) -> None:
        self.pieces: list[str] = []
        self.clauses: list[Clause] = []
        self._at = 0
        self._effective = effective

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self._at += len(text)

    def add_clause(self, text: str, keys: tuple[Key, ...], rule: str) -> None:
        start = self._at
        self.add(text)
        self.clauses.append(Clause(text, start, self._at, keys, rule, self._effective))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _anatomical(builder: _Builder, resolution: Resolution, rng: random.Random | None) -> None:
    lex = lexicon()
    found = statements(resolution, lex)
    opening = ""
    if rng and rng.random() < 0.6:
        opening = render(rng.choice(lex.frame["openings"]), "", {}, rng)
    builder.add(_capital(opening))
    if not found:
        text = render(lex.frame["neutral"], "", {}, rng)
        builder.add((text if opening else _capital(text)) + ".")
        return
    start = not opening
    for number, sentence in enumerate(_sentences(found, rng)):
        if number:
            builder.add(" ")
        joiner = ""
        for statement in sentence:
            builder.add(joiner)
            text = clause(statement, rng)
            builder.add_clause(_capital(text) if start else text, statement.keys, statement.rule)
            start = False
            joiner = rng.choice(lex.frame["joiners"]) if rng else "; " if "," in text else lex.frame["joiners"][0]
        builder.add(".")
        start = True


def _sentences(found: list[Statement], rng: random.Random | None) -> Iterator[list[Statement]]:
    """Group statements of one zone into sentences of one or two clauses; a seed may shuffle zones and group sizes."""
    place_of = lexicon().place_of
    zones: dict[int, list[Statement]] = {}
    for statement in found:
        zones.setdefault(place_of[statement.codes[0]][0], []).append(statement)
    order = list(zones.values())
    if rng:
        rng.shuffle(order)
    for zone in order:
        at = 0
        while at < len(zone):
            size = rng.choice((1, 2)) if rng else 2
            yield zone[at : at + size]
            at += size


def _compact(builder: _Builder, resolution: Resolution, rng: random.Random | None) -> None:
    found = statements(resolution, lexicon())
    if not found:
        builder.add(lexicon().frame["neutral_compact"])
    for number, (text, said) in enumerate(compact_items(found)):
        builder.add(", " if number else "")
        builder.add_clause(text, tuple(key for statement in said for key in statement.keys), said[0].rule)


def _tags(builder: _Builder, resolution: Resolution, rng: random.Random | None) -> None:
    lex = lexicon()
    said: dict[str, list[Key]] = {}
    for statement in statements(resolution, lex):
        combo = lex.combos[statement.codes].tags if statement.kind == "combo" else ""
        if combo:
            said.setdefault(combo, []).extend(statement.keys)
        elif statement.kind != "tension":
            for key in statement.keys:
                said.setdefault(_tag(lex.units[key[0]], resolution.effective.parts[key]), []).append(key)
    for number, (tag, keys) in enumerate(said.items()):
        builder.add(", " if number else "")
        builder.add_clause(tag, tuple(keys), "")
    if not said:
        builder.add("expressionless")


def _tag(entry: Entry, level: float) -> str:
    """Tag of a unit: a weaker one below a level, where there is one."""
    return next((text for below, text in entry.tags_below if grade(level) < below), entry.tags)


_SIDES = {
    "": "",
    "L": ", left",
    "R": ", right",
    "U": ", one side",
    "A": ", one side more",
    "T": ", top",
    "B": ", bottom",
}


def _coder(builder: _Builder, resolution: Resolution, rng: random.Random | None) -> None:
    effective = resolution.effective
    if not effective:
        builder.add(f"0 ({units['0'].name.lower()})")
    scores = effective.format().split("+") if effective else []
    for number, (score, (name, _)) in enumerate(zip(scores, effective.items(), strict=True)):
        keys = parse_name(name)
        which = _SIDES[keys[0][1]] if len(keys) == 1 else ""
        builder.add(" + " if number else "")
        builder.add_clause(f"{score} ({units[keys[0][0]].name.lower()}{which})", keys, "")


_WRITERS = {"anatomical": _anatomical, "compact": _compact, "tags": _tags, "coder": _coder}


def _add_emotion(builder: _Builder, effective: AUSet, style: str) -> None:
    match = presets.closest(effective)
    if match is None:
        return
    if style == "tags":
        builder.add(f", {match.name}")
    else:
        stop = "" if style == "anatomical" else "."
        label = presets.labels()[match.source]
        builder.add(f"{stop} {lexicon().frame['emotion']}{label} prototype '{match.name}'.")
