"""Words for one statement in the anatomical and the compact style, canonical or varied by a random generator."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from auface_diffusers.facs.levels import LETTERS
from auface_diffusers.facs.lexicon import UNSCORED, Entry, Sign, lexicon
from auface_diffusers.facs.phrases import SIDE_WORDS, render
from auface_diffusers.facs.statements import Statement

if TYPE_CHECKING:
    import random


def clause(statement: Statement, rng: random.Random | None) -> str:
    """The statement as a clause of the anatomical style, without capital and full stop."""
    if rng is None:
        return _canonical(statement.kind, statement.codes, statement.part, statement.words, statement.muted)
    return _clause(statement.kind, statement.codes, statement.part, statement.words, statement.muted, rng)


@lru_cache(maxsize=50_000)
def _canonical(kind: str, codes: tuple[str, ...], part: str, words: tuple[str, ...], muted: frozenset[str]) -> str:
    return _clause(kind, codes, part, words, muted, None)


def _clause(
    kind: str,
    codes: tuple[str, ...],
    part: str,
    words: tuple[str, ...],
    muted: frozenset[str],
    rng: random.Random | None,
) -> str:
    lex = lexicon()
    if kind == "tension":
        return _tension(lex.units[codes[0]], part, words[0], rng)
    entry = lex.combos[codes] if kind == "combo" else lex.units[codes[0]]
    if entry.by_level:
        letter = "E" if words[0] == UNSCORED else words[0]
        return render(entry.by_level[LETTERS.index(letter)], part, {}, rng)
    level = words[0] if len(set(words)) == 1 else UNSCORED
    text = render(entry.say, part, _level_slots(level, rng), rng)
    if len(set(words)) > 1:
        return text + _level_list(codes, words)
    sign = _sign(entry, part, level, muted, rng)
    return text + (render(sign.text, part, {}, rng, continues=entry.say) if sign else "")


def _level_slots(level: str, rng: random.Random | None) -> dict[str, str]:
    lex = lexicon()
    if level == UNSCORED:
        return {"adv": "", "adj": ""}
    adverbs, adjectives = lex.levels["adverbs"][level], lex.levels["adjectives"][level]
    pick = rng.choice if rng else lambda options: options[0]
    return {"adv": pick(adverbs) + " ", "adj": pick(adjectives) + " "}


def _sign(entry: Entry, part: str, level: str, muted: frozenset[str], rng: random.Random | None) -> Sign | None:
    """The visible consequence to add: none while the level or the side is not known."""
    if level == UNSCORED or part in ("U", "A"):
        return None
    number = LETTERS.index(level) + 1
    holds = [sign for sign in entry.signs if number >= sign.level and sign.claim not in muted]
    if rng:
        return rng.choice([*holds, None])
    return holds[0] if holds else None


def _level_list(codes: tuple[str, ...], words: tuple[str, ...]) -> str:
    """``", the inner lift and outer lift marked, the knit slight"``: levels that differ, in the order of the units."""
    lex = lexicon()
    by_word: dict[str, list[str]] = {}
    for code, word in zip(codes, words, strict=True):
        by_word.setdefault(word, []).append(lex.units[code].noun)
    groups = []
    for word, nouns in by_word.items():
        listed = nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]
        groups.append(f"the {listed} {level_adjective(word)}")
    return ", " + ", ".join(groups)


def level_adjective(word: str) -> str:
    """Adjective of a level in the list of a combination; an unscored action is "present"."""
    return "present" if word == UNSCORED else str(lexicon().levels["adjectives"][word][0])


def _tension(entry: Entry, part: str, word: str, rng: random.Random | None) -> str:
    lex = lexicon()
    amounts = lex.levels["amounts"][word]
    amount = rng.choice(amounts) if rng else amounts[0]
    return render(lex.frame["tension"], "", {"amount": amount}, rng) + tension_place(entry.muscle, part)


def tension_place(muscle: str, part: str) -> str:
    """Where tension stays: ``"the left zygomaticus major"``, ``"the incisive muscles of the upper lip"``."""
    if part in ("L", "R"):
        return f"the {SIDE_WORDS[part]} {muscle}"
    if part in ("T", "B"):
        return f"the {muscle} of the {SIDE_WORDS[part]} lip"
    return {"U": f"one {muscle}", "A": f"the {muscle}, more on one side"}.get(part, f"the {muscle}")


# --- compact ------------------------------------------------------------------------------------------------

Item = tuple[str, tuple[Statement, ...]]
"""Text of an item of the compact style, and the statements that it says."""

CLIP_TOKENS = 75
"""Tokens of a CLIP text encoder's context of 77 that are left beside start and end."""
_WORD = re.compile(r"[a-z]+|[^\sa-z]")


def clip_tokens(text: str) -> int:
    """Number of tokens of CLIP's BPE vocabulary in a compact text (the lexicon lists its words of several tokens)."""
    counts = lexicon().clip_tokens
    return sum(counts.get(word, 1) for word in _WORD.findall(text.lower()))


def compact_items(found: list[Statement]) -> list[Item]:
    """Items of the compact style.

    Combinations that settle a conflict keep their phrase, the others name their units one by one; left and right
    of one unit at different levels share an item. If that takes more tokens than CLIP has, every unit is held to
    one item, which costs at most nine tokens: sides that differ in more than their level are then said without a
    direction.
    """
    items = _items(found)
    if clip_tokens(", ".join(text for text, _ in items)) <= CLIP_TOKENS:
        return items
    return _items([single for statement in found for single in _one_by_one(statement)], tight=True)


def _items(found: list[Statement], tight: bool = False) -> list[Item]:
    combos = lexicon().combos
    items: list[Item] = []
    singles: list[Statement] = []
    for statement in found:
        if statement.kind == "combo" and combos[statement.codes].compact:
            items.append((_compact_combo(statement), (statement,)))
        elif statement.kind == "combo":
            singles += _split(statement, "unit")
        else:
            singles.append(statement)
    by_code: dict[str, list[Statement]] = {}
    for single in singles:
        by_code.setdefault(single.codes[0], []).append(single)
    for of_code in by_code.values():
        items += _unit_items(of_code, tight)
    return items


def _unit_items(of_code: list[Statement], tight: bool) -> list[Item]:
    pair = tuple(sorted((s for s in of_code if s.part in SIDE_WORDS), key=lambda s: "LRTB".index(s.part)))
    if len(pair) == 2 and (tight or pair[0].kind == pair[1].kind):
        rest = [(_compact_unit(s), (s,)) for s in of_code if s not in pair]
        alike = pair[0].kind == pair[1].kind and pair[0].words == pair[1].words
        return [(_compact_unit(pair[0]._replace(part="both")) if alike else _compact_pair(pair), pair), *rest]
    return [(_compact_unit(s), (s,)) for s in of_code]


def _one_by_one(statement: Statement) -> list[Statement]:
    """Take a combination that stands on one side only apart; what it settled goes on as tension."""
    if statement.kind != "combo" or statement.part == "both" or not lexicon().combos[statement.codes].compact:
        return [statement]
    return _split(statement, "tension")


def _split(combo: Statement, kind: str) -> list[Statement]:
    singles = []
    for code, word in zip(combo.codes, combo.words, strict=True):
        keys = tuple(key for key in combo.keys if key[0] == code)
        part = keys[0][1] if len(keys) == 1 else "both"
        its_kind = kind if lexicon().units[code].tense else "unit"
        singles.append(Statement(its_kind, (code,), part, (word,), keys, combo.rule, combo.muted))
    return singles


def _compact_unit(statement: Statement) -> str:
    """``"strongly raised left lip corner"``."""
    entry = lexicon().units[statement.codes[0]]
    word = statement.words[0]
    if entry.compact_by_level:
        return render(entry.compact_by_level[LETTERS.index("E" if word == UNSCORED else word)], statement.part, {})
    template = entry.tense if statement.kind == "tension" else entry.compact
    return render(template, statement.part, compact_slots(word)).strip()  # a side may be the last word


def compact_slots(word: str) -> dict[str, str]:
    """Slots of a compact phrase at a level; both empty if the intensity was not scored."""
    lex = lexicon()
    if word == UNSCORED:
        return {"adv": "", "adj": ""}
    return {"adv": lex.levels["compact"][word] + " ", "adj": lex.levels["compact_adjectives"][word] + " "}


def _compact_pair(pair: tuple[Statement, ...]) -> str:
    """``"raised lip corners left strong right slight"``."""
    entry = lexicon().units[pair[0].codes[0]]
    tense = any(s.kind == "tension" for s in pair)
    text = render(entry.tense if tense else entry.compact, "both", compact_slots(UNSCORED))
    adjectives = lexicon().levels["compact_adjectives"]
    return text + "".join(f" {SIDE_WORDS[s.part]} {adjectives[s.words[0]]}" for s in pair)


def _compact_combo(statement: Statement) -> str:
    """``"taut level lip corners strong zygomatic slight depressor"``."""
    lex = lexicon()
    same = len(set(statement.words)) == 1
    words = compact_slots(statement.words[0] if same else UNSCORED)
    text = render(lex.combos[statement.codes].compact, statement.part, words)
    if same:
        return text
    adjectives = lex.levels["compact_adjectives"]
    pairs = zip(statement.codes, statement.words, strict=True)
    return text + "".join(f" {adjectives[word]} {lex.units[code].short}" for code, word in pairs)
