"""What is said about expressions: the opposite texts, reports and recipes. Needs no ComfyUI and no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from auface_diffusers.facs import AUSet, Description, RuleHit, TextReading, describe, units
from auface_diffusers.facs.interactions import rules
from auface_diffusers.facs.notation import Key
from auface_diffusers.facs.presets import Preset, labels, presets, sources
from comfyui_auface.expression import Expression

JOINERS = {"anatomical": " ", "compact": ", ", "tags": ", ", "coder": " + "}
"""What stands between the texts of two units in the negative text, by style."""


@lru_cache(maxsize=1)
def opposites() -> dict[str, tuple[str, ...]]:
    """Units by code that pull the same feature the other way, or rule the unit out; read off the interaction rules.

    Only units that FACS grades take part: the others are other names for a level of one of them (41, 42 and 45 for
    43), or not to be seen in a still.
    """
    table = rules()
    pairs = [case.members for case in table.oppose if not case.option]
    pairs += [case.members for cases in table.contests for case in cases]
    found: dict[str, list[str]] = {}
    codes = [(one[0], other[0]) for one, other in pairs]
    codes += [
        (winner, loser)
        for cases in table.beats
        for case in cases
        if case.rule.reading
        for winner in case.option[1]
        for loser in case.option[2]
    ]
    for one, other in codes:
        if one != other and units[one].graded and units[other].graded:
            found.setdefault(one, []).append(other)
            found.setdefault(other, []).append(one)
    return {code: tuple(dict.fromkeys(others)) for code, others in found.items()}


def negative(aus: AUSet, style: str = "anatomical") -> str:
    """Text of the opposite actions, for a negative prompt: each said by itself, at the level and side of its opposite.

    Args:
        aus: what is to be seen: the effective score. A unit of it is nobody's opposite.
        style: as of `describe`.

    Returns:
        ``""`` if nothing stands against the score, as for the neutral face.
    """
    levels: dict[Key, float] = {}
    for (code, part), level in aus.parts.items():
        for other in opposites().get(code, ()):
            if other not in aus.codes:
                names = units[other].part_names
                for name in [part] if part in names else names:
                    levels[other, name] = max(level, levels.get((other, name), 0.0))
    found = AUSet.from_keys(levels)
    texts = [describe(found.only(code), style).text for code in found.codes]
    return JOINERS[style].join(texts)


def report(saids: list[Description]) -> str:
    """What the rules did to each frame, in lines for people: id, grade of the evidence, scores, action, reason."""
    blocks = []
    for number, said in enumerate(saids, 1):
        head = f"{said.resolution.raw.format()} -> {said.resolution.effective.format()}"
        lines = [f"  {line}" for line in rule_lines(said.trace)] or ["  no rule fired"]
        blocks.append("\n".join([f"frame {number}: {head}" if len(saids) > 1 else head, *lines]))
    return "\n".join(blocks)


def rule_lines(trace: tuple[RuleHit, ...]) -> Iterator[str]:
    """A line for each rule that fired."""
    for hit in trace:
        dropped = f" ({', '.join(hit.dropped)} left out)" if hit.dropped else ""
        yield f"{hit.id} [{hit.grade}] {' with '.join(hit.aus)}: {hit.action}{dropped}: {hit.why}"


def reading_report(read: TextReading) -> str:
    """What was read from a text, how surely, and what was not understood."""
    lines = [f"{read.format()}, confidence {read.confidence:.2f}"]
    for name, sure in read.by_unit.items():
        code = AUSet({name: None}).codes[0]
        lines.append(f"  {name}: {sure:.2f}  {units[code]}")
    lines += [f"  not understood: {part}" for part in read.unread]
    return "\n".join(lines)


def preset_choices() -> dict[str, Preset]:
    """Prototypes by the name that the node shows: ``"happiness (EMFACS-style)"``."""
    short = labels()
    return {f"{one.name} ({short[one.source]})": one for one in presets()}


def recipe(choice: str, expression: Expression) -> str:
    """Where a preset comes from, what it is made of in its source, and what came out."""
    one = preset_choices()[choice]
    often = ", ".join(f"{code} {share:.0%}" for code, share in one.often.items())
    added = f"; also seen: {often}" if often else ""
    return f"{expression}\n{one.name} = {one.aus.format()}{added}\nSource: {sources()[one.source]}"
