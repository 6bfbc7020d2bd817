"""Every phrase that `describe` can write, as patterns that read it back. Built from the lexicon at first use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from auface_diffusers.facs.levels import LETTERS
from auface_diffusers.facs.lexicon import UNSCORED, Entry, Lexicon, lexicon
from auface_diffusers.facs.notation import Key
from auface_diffusers.facs.phrases import SIDE_WORDS, openings, pattern
from auface_diffusers.facs.units import units
from auface_diffusers.facs.wording import level_adjective, tension_place

_END = r"(?=\s*(?:[.;,]|$|and\b|while\b))"


@dataclass(frozen=True, eq=False)
class Phrase:
    """One way to say something: text that begins with a start and matches ``source`` says ``codes`` on ``part``.

    ``word`` is the level word if the phrase itself fixes it, else the match has it.
    """

    codes: tuple[str, ...]
    part: str
    starts: tuple[str, ...]
    source: str
    word: str = ""

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled at first need: most of the phrasebook is never touched by a text."""
        return re.compile(self.source + _END)

    def scores(self, match: re.Match[str]) -> dict[Key, str]:
        """Level word (A..E or "unscored") of each (code, part) that the match says."""
        found = match.groupdict()
        word = self.word or _word(found)
        words = dict.fromkeys(self.codes, word)
        if found.get("list"):
            words = _listed(found["list"], self.codes)
        if found.get("shorts"):
            words = _shorts(found["shorts"], self.codes)
        if found.get("pair"):
            code = self.codes[0]
            return {(code, part): level for part, level in _sides(found["pair"]).items()}
        return {(code, part): words[code] for code in self.codes for part in parts_of(code, self.part)}


def parts_of(code: str, part: str) -> tuple[str, ...]:
    """Parts of the unit's keys that a phrase for ``part`` speaks of."""
    return units[code].part_names if part in ("both", "") else (part,)


@lru_cache(maxsize=1)
def phrasebook() -> Mapping[str, tuple[Phrase, ...]]:
    """All phrases, by the first word they can start with ("" if that is not fixed)."""
    by_word: dict[str, list[Phrase]] = {}
    for phrase in _phrases(lexicon()):
        for word in {start.split(" ")[0] if " " in start else "" for start in phrase.starts}:
            by_word.setdefault(word, []).append(phrase)
    return {word: tuple(found) for word, found in by_word.items()}


def _phrases(lex: Lexicon) -> Iterator[Phrase]:
    for code, entry in lex.units.items():
        kind = units[code].parts
        variants = {"sides": ("both", "L", "R", "U", "A"), "lips": ("both", "T", "B"), "whole": ("",)}[kind]
        for part in variants:
            yield from _unit_phrases(code, entry, part)
        if kind != "whole":
            yield from _pair_phrases(code, entry, variants[1:3])
    for codes, entry in lex.combos.items():
        sided = all(units[code].parts == "sides" for code in codes)
        for part in ("both", "L", "R") if sided else ("both",):
            yield from _combo_phrases(codes, entry, part)


def _unit_phrases(code: str, entry: Entry, part: str) -> Iterator[Phrase]:
    for texts in (entry.by_level, entry.compact_by_level):
        for letter, text in zip(LETTERS, texts, strict=False):
            yield Phrase((code,), part, openings(text, part), pattern(text, part, {}), letter)
    if entry.say:
        signs = "|".join(pattern(sign.text, part, {}, continues=entry.say) for sign in entry.signs)
        source = pattern(entry.say, part, _anatomical_slots()) + (f"(?:{signs})?" if signs else "")
        yield Phrase((code,), part, openings(entry.say, part), source)
    if entry.muscle:
        yield Phrase((code,), part, ("",), _tension_source() + re.escape(tension_place(entry.muscle, part)))
    for text in filter(None, (entry.compact, entry.tense)):
        yield Phrase((code,), part, ("",), _trimmed(pattern(text, part, _compact_slots())))


def _pair_phrases(code: str, entry: Entry, sides: tuple[str, ...]) -> Iterator[Phrase]:
    adjectives = _options(lexicon().levels["compact_adjectives"].values())
    tail = "(?P<pair>" + "".join(f" {SIDE_WORDS[side]} {adjectives}" for side in sides) + ")"
    for text in filter(None, (entry.compact, entry.tense)):
        yield Phrase((code,), "both", ("",), pattern(text, "both", {"adv": "", "adj": ""}) + tail)


def _combo_phrases(codes: tuple[str, ...], entry: Entry, part: str) -> Iterator[Phrase]:
    lex = lexicon()
    nouns = _options(lex.units[code].noun for code in codes)
    group = f", the {nouns}(?:, {nouns})*(?: and {nouns})? {_options(_list_words())}"
    tails = [f"(?P<list>(?:{group})+)", *(pattern(sign.text, part, {}, continues=entry.say) for sign in entry.signs)]
    source = pattern(entry.say, part, _anatomical_slots()) + f"(?:{'|'.join(tails)})?"
    yield Phrase(codes, part, openings(entry.say, part), source)
    if entry.compact:
        adjectives = _options(lex.levels["compact_adjectives"].values())
        shorts = "".join(f" {adjectives} {re.escape(lex.units[code].short)}" for code in codes)
        source = pattern(entry.compact, part, _compact_slots()) + f"(?P<shorts>{shorts})?"
        yield Phrase(codes, part, ("",), source)


def _options(words: object) -> str:
    listed = sorted(map(str, words), key=len, reverse=True)  # type: ignore[call-overload]
    return "(?:" + "|".join(map(re.escape, listed)) + ")"


@lru_cache(maxsize=1)
def _anatomical_slots() -> dict[str, str]:
    levels = lexicon().levels
    adverbs = [word for words in levels["adverbs"].values() for word in words]
    adjectives = [word for words in levels["adjectives"].values() for word in words]
    return {"adv": f"(?P<adv>{_options(adverbs)} )?", "adj": f"(?P<adj>{_options(adjectives)} )?"}


@lru_cache(maxsize=1)
def _compact_slots() -> dict[str, str]:
    levels = lexicon().levels
    adjectives = _options(levels["compact_adjectives"].values())
    return {"adv": f"(?P<adv>{_options(levels['compact'].values())} )?", "adj": f"(?P<adj>{adjectives} )?"}


def _trimmed(source: str) -> str:
    """Drop the blank after a side that ends a compact phrase."""
    return source.removesuffix("\\ ")


@lru_cache(maxsize=1)
def _tension_source() -> str:
    lex = lexicon()
    amounts = _options(word for words in lex.levels["amounts"].values() for word in words)
    return pattern(lex.frame["tension"], "", {"amount": f"(?P<amount>{amounts})"})


def _list_words() -> list[str]:
    return [level_adjective(word) for word in (*LETTERS, UNSCORED)]


@lru_cache(maxsize=1)
def _word_of() -> dict[str, str]:
    """Level word filed by every adverb, adjective and amount of the lexicon."""
    found: dict[str, str] = {}
    for words in lexicon().levels.values():
        for letter, value in words.items():
            for word in [value] if isinstance(value, str) else value:
                if found.setdefault(word, letter) != letter:
                    raise ValueError(f"lexicon: {word!r} stands for {found[word]} and {letter}")
    return found


def _word(found: Mapping[str, str | None]) -> str:
    word = found.get("adv") or found.get("adj") or found.get("amount")
    return _word_of()[word.strip()] if word else UNSCORED


def _listed(text: str, codes: tuple[str, ...]) -> dict[str, str]:
    """Levels of ``", the inner lift and outer lift marked, the knit slight"``."""
    by_noun = {lexicon().units[code].noun: code for code in codes}
    by_word = {level_adjective(word): word for word in (*LETTERS, UNSCORED)}
    words = {}
    for group in text.split(", the ")[1:]:
        nouns, _, adjective = group.rpartition(" ")
        for noun in re.split(r", | and ", nouns):
            words[by_noun[noun]] = by_word[adjective]
    return words


def _shorts(text: str, codes: tuple[str, ...]) -> dict[str, str]:
    """Levels of ``" clear inner clear outer slight knit"``."""
    return dict(zip(codes, (_word_of()[word] for word in text.split()[::2]), strict=True))


def _sides(text: str) -> dict[str, str]:
    """Levels of ``" left strong right slight"`` by part."""
    words = text.split()
    parts = {word: part for part, word in SIDE_WORDS.items()}
    return {parts[side]: _word_of()[word] for side, word in zip(words[::2], words[1::2], strict=True)}
