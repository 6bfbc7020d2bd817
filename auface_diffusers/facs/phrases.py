"""The template language of the lexicon: one template writes a phrase and reads it back.

The language is explained at the top of ``lexicon/en.toml``. A template is rendered for a *part*: ``"both"`` (both
sides or both lips), L, R, U, A, T, B, or ``""`` for a unit that acts as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

SIDE_WORDS = {"L": "left", "R": "right", "T": "upper", "B": "lower"}
_TO = {
    "both": "to both sides",
    "L": "to its own left",
    "R": "to its own right",
    "U": "to one side",
    "A": "more to one side",
}
_LIPS = {"both": "the lips", "T": "the upper lip", "B": "the lower lip"}
_COMPACT_SIDE = {"L": "left ", "R": "right ", "T": "upper ", "B": "lower ", "U": "single ", "A": "uneven "}
_TOKEN = re.compile(r"\[|\]|\||\{[^{}]*\}|[^\[\]|{}]+")


@dataclass(frozen=True, eq=False)
class Choice:
    """Wordings that mean the same; the first is the canonical one."""

    options: tuple[tuple[str | Choice | Slot, ...], ...]


@dataclass(frozen=True, eq=False)
class Slot:
    """A place filled by side, number or level: ``name`` is "the", "mid", "is", ...; ``words`` its alternatives."""

    name: str
    words: tuple[str, ...] = ()


@cache
def parse_template(template: str) -> tuple[str | Choice | Slot, ...]:
    """Parse a template into nodes. Raises `ValueError` for an unbalanced bracket."""
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template or tokens.count("[") != tokens.count("]"):
        raise ValueError(f"template {template!r}: brackets do not match")
    nodes, rest = _parse_nodes(tokens, 0, inside=False)
    assert rest == len(tokens)
    return nodes


def _parse_nodes(tokens: list[str], at: int, inside: bool) -> tuple[tuple[str | Choice | Slot, ...], int]:
    nodes: list[str | Choice | Slot] = []
    while at < len(tokens):
        token = tokens[at]
        if inside and token in "|]":
            break
        at += 1
        if token == "[":
            options = []
            while True:
                option, at = _parse_nodes(tokens, at, inside=True)
                options.append(option)
                at += 1
                if tokens[at - 1] == "]":
                    break
            nodes.append(Choice(tuple(options)))
        elif token.startswith("{"):
            nodes.append(_parse_slot(token[1:-1]))
        else:
            nodes.append(token)
    return tuple(nodes), at


def _parse_slot(body: str) -> Slot:
    if body.startswith("?"):
        return Slot("number", tuple(body[1:].split("|")))
    name, _, words = body.partition(" ")
    return Slot(name, tuple(words.split("|")) if words else ())


def is_plural(nodes: Sequence[str | Choice | Slot], part: str) -> bool:
    """Number of the phrase's first noun: what ``{is}`` and ``{its}`` agree with."""
    for node in nodes:
        if isinstance(node, Slot) and node.name in ("the", "mid", "lips"):
            return part == "A" if node.name == "mid" else part in ("both", "A")
    return part in ("both", "A")


def noun_phrase(slot: Slot, noun: str, part: str, first: bool) -> str:
    """Write ``noun`` with its side; after the first one in a phrase, only what is needed to stay clear is repeated."""
    singular, _, plural = noun.partition("/")
    plural = plural or singular + "s"
    if slot.name == "mid":
        if part in ("L", "R"):
            return f"the {SIDE_WORDS[part]} side of the {singular}"
        if part == "U" and first:
            return f"one side of the {singular}"
        if part == "A" and first:
            return f"both sides of the {singular}, one more than the other,"
        return f"the {singular}"
    if part in ("L", "R"):
        side = SIDE_WORDS[part]
        return "the " + (singular.replace("@", f"{side} ") if "@" in singular else f"{side} {singular}")
    singular, plural = singular.replace("@", ""), plural.replace("@", "")
    if part == "U":
        return f"one {singular}" if first else f"the {singular}"
    if part == "A" and first:
        return f"both {plural}, one more than the other,"
    return f"the {plural}"


class _Writer:
    """Renders nodes for one part; without ``rng`` every choice is the first."""

    def __init__(self, part: str, plural: bool, words: dict[str, str], rng: random.Random | None) -> None:
        self.part = part
        self.plural = plural
        self.words = words
        self.rng = rng
        self.first = True
        self.out: list[str] = []

    def write(self, nodes: Sequence[str | Choice | Slot]) -> None:
        for node in nodes:
            if isinstance(node, str):
                self.out.append(node)
            elif isinstance(node, Choice):
                self.write(self.rng.choice(node.options) if self.rng else node.options[0])
            else:
                self.out.append(self._slot(node))

    def _slot(self, slot: Slot) -> str:
        name = slot.name
        if name in ("the", "mid"):
            noun = self.rng.choice(slot.words) if self.rng else slot.words[0]
            first, self.first = self.first, False
            return noun_phrase(slot, noun, self.part, first)
        return self.words[name] if name in self.words else fixed_slot(slot, self.part, self.plural)


def fixed_slot(slot: Slot, part: str, plural: bool) -> str:
    """Text of a slot that only side and number decide. Raises `ValueError` for a slot the language does not have."""
    name = slot.name
    if name == "number":
        return slot.words[0 if plural else 1]
    if name == "is":
        return "are" if plural else "is"
    if name == "its":
        return "their" if plural else "its"
    if name == "s":
        return "s" if part in ("both", "A") else ""
    if name == "to":
        return _TO[part]
    if name == "lips":
        return _LIPS[part]
    if name == "side":
        return _COMPACT_SIDE.get(part, "")
    raise ValueError(f"unknown slot {{{name}}}")


def render(
    template: str,
    part: str,
    words: dict[str, str],
    rng: random.Random | None = None,
    *,
    continues: str = "",
) -> str:
    """Write a template.

    Args:
        template: text in the template language.
        part: "both", L, R, U, A, T, B or "".
        words: text for the slots that the caller fills, such as ``{"adv": "slightly "}``.
        rng: picks among wordings; None writes the canonical one.
        continues: the template that this one goes on from: it has introduced the nouns and sets the number.
    """
    nodes = parse_template(template)
    writer = _Writer(part, is_plural(parse_template(continues or template), part), words, rng)
    writer.first = not continues
    writer.write(nodes)
    return "".join(writer.out)


def pattern(template: str, part: str, words: dict[str, str], *, continues: str = "") -> str:
    """Regular expression (source text) that matches every wording of ``template`` for ``part`` in lower-case text.

    ``words`` gives the expression for each slot that the caller fills; ``continues`` is as in `render`.
    """
    plural = is_plural(parse_template(continues or template), part)
    seen = [bool(continues)]

    def expression(nodes: Sequence[str | Choice | Slot]) -> str:
        out = []
        for node in nodes:
            if isinstance(node, str):
                out.append(re.escape(node.lower()))
            elif isinstance(node, Choice):
                out.append("(?:" + "|".join(expression(option) for option in node.options) + ")")
            elif node.name in ("the", "mid"):
                is_first, seen[0] = not seen[0], True
                nouns = "|".join(re.escape(noun_phrase(node, noun, part, is_first)) for noun in node.words)
                out.append(f"(?:{nouns})")
            elif node.name in words:
                out.append(words[node.name])
            else:
                out.append(re.escape(fixed_slot(node, part, plural)))
        return "".join(out)

    return expression(parse_template(template))


def openings(template: str, part: str) -> tuple[str, ...]:
    """What a wording of ``template`` can start with, lower case: lets a reader skip most patterns."""
    starts = [""]
    first = True
    for node in parse_template(template):
        if isinstance(node, str):
            starts = [start + node for start in starts]
            break
        if isinstance(node, Choice) or node.name not in ("the", "mid", "lips"):
            break
        if node.name == "lips":
            starts = [_LIPS[part]]
        else:
            starts = [start + noun_phrase(node, noun, part, first) for start in starts for noun in node.words]
        break
    return tuple(start.lower() for start in starts)
