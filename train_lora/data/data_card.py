"""The card of a prepared data set: what is in it, who labelled it, what was left out. Markdown and JSON."""

from __future__ import annotations

from typing import Any

from auface_diffusers.facs import units
from auface_diffusers.facs.interactions import rules
from train_lora.data.items import Listed
from train_lora.data.pack import Packed, Tally
from train_lora.data.pairs import estimator, origin
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.split import SPLITS, published, unit_counts

CARD = "card.json"
README = "README.md"
LEVELS = ("A", "B", "C", "D", "E", "unscored")
ORIGINS = {
    "annotated": "People have labelled these pictures; see the data set's own paper for how.",
    "detector": "A detector has labelled these pictures, no person. Its mistakes are in the labels.",
    "estimator": (
        "Our estimator has labelled these pictures, no person. A model trained on them learns its mistakes, and must "
        "not be judged by it."
    ),
}
_RULES = ("rule", "title", "pictures")
LICENSED = ("bp4d", "bp4d+", "disfa", "disfa+", "ck+", "unbc")


def summary(config: PrepareConfig, listed: Listed, packed: Packed) -> dict[str, Any]:
    """The card as plain values."""
    kept = sum(tally.pictures for tally in packed.tallies.values())
    card: dict[str, Any] = {
        "source": listed.source,
        "origin": origin(listed.source),
        "licence": config.licence or _licence(listed.source),
        "size": config.size,
        "faces": config.faces,
        "unnamed": config.unnamed,
        "pictures": {"listed": listed.count, "kept": kept, "skipped": dict(sorted(packed.skipped.items()))},
        "label_rows": {"left_out": listed.bad_rows, "odd": listed.notes},
        "split": {"by": config.split.by, **({"fold": config.split.fold} if config.split.by == "published" else {})},
        "splits": {name: _split(packed, name) for name in SPLITS if packed.tallies[name].pictures},
        "notes": _notes(config, packed),
    }
    if listed.source == "estimator":
        card["estimator"] = {"sure": config.sure, "covered": list(estimator().coverage)}
    if config.split.by == "published":
        card["split"]["list"] = published()[listed.source]["source"]
    return card


def _split(packed: Packed, name: str) -> dict[str, Any]:
    tally = packed.tallies[name]
    return {
        "pictures": tally.pictures,
        "subjects": len(tally.subjects),
        "shards": packed.shards[name],
        "units": _units(tally, packed if name == "train" else None),
        "rules": dict(sorted(tally.rules.items())),
    }


def _units(tally: Tally, packed: Packed | None) -> dict[str, dict[str, Any]]:
    """Counts by code. The rest of the pictures, neither present nor absent, is unknown."""
    balanced = unit_counts(tally.codes(), packed.factors) if packed else {}
    table: dict[str, dict[str, Any]] = {}
    for code in units:
        levels = tally.present.get(code)
        if levels is None and code not in tally.absent:
            continue
        counts = levels or {}
        present = sum(counts.get(level, 0) for level in LEVELS)
        table[code] = {
            "present": present,
            "absent": tally.absent[code],
            "unknown": tally.pictures - present - tally.absent[code],
            "levels": {level: counts[level] for level in LEVELS if counts.get(level)},
            "uneven": counts.get("uneven", 0),
        }
        if packed and len(packed.factors):
            table[code]["share"] = round(present / tally.pictures, 4)
            table[code]["share_balanced"] = round(balanced.get(code, 0.0) / float(packed.factors.sum()), 4)
    return table


def _notes(config: PrepareConfig, packed: Packed) -> list[str]:
    notes = []
    if config.subjects == "picture":
        notes.append("Nobody knows who is seen: splits may share people.")
    train = packed.tallies["train"]
    both = [code for code in train.present if train.absent[code]]
    if train.pictures and not both:
        notes.append("One class only: no unit is there in one training picture and absent in another.")
    if config.faces == "cropped":
        notes.append("Pictures were taken for crops as they are: nobody has checked that one face fills them.")
    return notes


def _licence(source: str) -> str:
    if source in LICENSED:
        return (
            f"The pictures and labels of {source} stay under the agreement that you signed for them, and so do these "
            "copies: do not pass them on."
        )
    return "Not stated. Faces are personal data: make sure that those who are seen have agreed."


def markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    pictures = card["pictures"]
    lines = [
        f"# Pictures of {card['source']} with texts of their action units",
        "",
        ORIGINS[card["origin"]],
        "",
        f"- pictures: {pictures['kept']} of {pictures['listed']}, {card['size']} pixels",
        f"- splits by {card['split']['by']}"
        + (f", fold {card['split']['fold']} of {card['split']['list']}" if "fold" in card["split"] else ""),
        f"- units that the labels never speak of are {card['unnamed']}",
        f"- licence: {card['licence']}",
        *(f"- {note}" for note in card["notes"]),
        "",
        *_table(("split", "pictures", "subjects", "shards"), _split_rows(card)),
        *_counted("Left out", pictures["skipped"]),
        *_counted("Rows of the labels that could not be read", card["label_rows"]["left_out"]),
        *_counted("Rows that were read although something is odd", card["label_rows"]["odd"]),
    ]
    for name, split in card["splits"].items():
        lines += [f"## {name.capitalize()}", "", *_unit_table(split["units"])]
        lines += _rule_table(split["rules"])
    lines += [
        "A unit counts as the texts say it, after the rules. Unknown means never coded, not scorable (9), hidden, or "
        "taken out of the text by a rule although it was coded. Uneven: the sides or lips differ.",
        "",
    ]
    return "\n".join(lines)


def _split_rows(card: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(name, x["pictures"], x["subjects"], x["shards"]) for name, x in card["splits"].items()]


def _unit_table(table: dict[str, dict[str, Any]]) -> list[str]:
    balanced = any("share" in row for row in table.values())
    names = ("unit", "name", "present", "absent", "unknown", *LEVELS, "uneven")
    names += ("share", "balanced") if balanced else ()
    rows = []
    for code, row in table.items():
        cells = (code, units[code].name, row["present"], row["absent"], row["unknown"])
        cells += (*(row["levels"].get(level, 0) for level in LEVELS), row["uneven"])
        cells += (f"{row['share']:.1%}", f"{row['share_balanced']:.1%}") if balanced else ()
        rows.append(cells)
    return _table(names, rows)


def _rule_table(counts: dict[str, int]) -> list[str]:
    if not counts:
        return []
    titles = {name: "; ".join(dict.fromkeys(rule.title for rule in some)) for name, some in rules().by_id.items()}
    rows = [(name, titles[name], count) for name, count in counts.items()]
    return ["Rules for units that act together, by the pictures in which they fired:", "", *_table(_RULES, rows)]


def _counted(title: str, counts: dict[str, int]) -> list[str]:
    return [f"## {title}", "", *_table(("reason", "count"), list(counts.items()))] if counts else []


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    cells = [names, tuple("---" for _ in names), *rows]
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in cells] + [""]
