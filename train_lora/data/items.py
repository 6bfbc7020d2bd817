"""What is to be looked at: one line a picture with its labels, listed once, in the order of the splits."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.readers import Annotation, Quarantine, read_annotations
from train_lora.data.picture_files import PictureFiles
from train_lora.data.prepare_config import PLAIN, PrepareConfig, images_folder, pattern, source_name
from train_lora.data.quality import Skip
from train_lora.data.split import SPLITS, assign

MAX_SIDECAR = 4096  # bytes of codes beside a picture
BAD_ROWS = "bad_rows.jsonl"
_UNLABELLED = ("no label", "every unit is unknown")


@dataclass(frozen=True)
class Item:
    """A picture with what its labels say.

    Attributes:
        picture: a reference of `PictureFiles`. subject: who is seen. task, frame: as the labels say.
        aus: notation of the units that are there; None where nobody has labelled.
        absent, unknown: codes or channels, see `Annotation`.
        split: one of `SPLITS`.
        skip: reason and detail if it is known already that the picture cannot be used.
    """

    picture: str
    subject: str
    task: str = ""
    frame: str = ""
    aus: str | None = None
    absent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    split: str = "train"
    skip: tuple[str, str] | None = None

    @classmethod
    def parse(cls, line: str) -> Item:
        """Read a line of the list."""
        value = json.loads(line)
        for name in ("absent", "unknown"):
            value[name] = tuple(value.get(name, ()))
        return cls(**value)

    def format(self) -> str:
        """A line of the list, without what is as always."""
        always = vars(Item("", ""))
        value = {key: x for key, x in asdict(self).items() if key in ("picture", "subject") or x != always[key]}
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Listed:
    """What a list holds: pictures and subjects by split, rows that the reader left out, and remarks."""

    source: str
    images: str
    count: int
    split_counts: dict[str, int]
    subjects: dict[str, int]
    bad_rows: dict[str, int]
    notes: dict[str, int]
    offsets: tuple[int, ...]


def list_items(config: PrepareConfig, path: Path) -> Listed:
    """Write the list of items to ``path``, in the order of `SPLITS`; it appears when it is whole.

    Memory holds a name a subject. `BAD_ROWS` beside its folder has the rows of the labels that cannot be used.

    Raises:
        ValueError: labels or pictures that are not there, one class only, nobody knows who is seen, too few subjects.
        OSError: no room to write, or not allowed to.
    """
    source = source_name(config)
    files = PictureFiles(images_folder(config, source))
    part = path.with_suffix(".part")
    subjects: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    seen = _Classes()
    with Quarantine(path.parent.with_name(BAD_ROWS)) as bad, part.open("w", encoding="utf-8") as out:
        rows = _plain(config, files) if source in PLAIN else _annotated(config, files, source, bad, notes)
        for item in rows:
            out.write(item.format() + "\n")
            if item.skip is None:
                subjects[item.subject] += 1
                seen.add(item, config.unnamed)
    if not subjects:
        raise ValueError(_nothing(part, files.root))
    if source != "estimator":
        seen.check()
    splits = assign(config.split, subjects, source, config.seed)
    offsets, counts = _sort(part, path, splits, config.per_shard)
    part.unlink()
    return Listed(
        source=source,
        images=str(files.root),
        count=sum(counts.values()),
        split_counts=counts,
        subjects={split: sum(value == split for value in splits.values()) for split in SPLITS},
        bad_rows=dict(bad.counts),
        notes=dict(bad.notes + notes),
        offsets=offsets,
    )


def read_items(path: Path, offset: int, count: int) -> list[Item]:
    """``count`` items from a place in the list; fewer at its end."""
    with path.open("rb") as file:
        file.seek(offset)
        lines = [line for _ in range(count) if (line := file.readline())]
    return [Item.parse(line.decode()) for line in lines]


# --- sources ---------------------------------------------------------------------------------------------------------


def _annotated(
    config: PrepareConfig, files: PictureFiles, source: str, bad: Quarantine, notes: Counter[str]
) -> Iterator[Item]:
    wanted = pattern(config, source)
    threshold = config.threshold or None
    counted: Counter[tuple[str, str]] = Counter()
    for row in read_annotations(config.labels, source, threshold=threshold, quarantine=bad):
        place = (row.subject, row.task)
        counted[place] += 1
        if (counted[place] - 1) % config.every:
            continue
        name = picture_name(row, wanted, config.offset)
        if source == "bp4d+" and counted[place] == 1 and files.first_number(str(PurePosixPath(name).parent)) == 1:
            notes["pictures of a task count from 1: offset = 1 if your copy means so"] += 1
        yield _item(config, files, row, name)


def picture_name(row: Annotation, wanted: str, offset: int) -> str:
    """Path of the picture of an annotation. Numbers are written without leading zeros: see `PictureFiles.find`."""
    frame = row.frame
    if frame.isdecimal() and "{frame" in wanted:
        frame = str(int(frame) + offset) if offset else frame
    image = row.image
    path = PurePosixPath(image)
    if offset and path.stem.isdecimal():
        image = str(path.with_name(f"{int(path.stem) + offset}{path.suffix}"))
    return wanted.format(subject=row.subject, task=row.task, frame=frame, face=row.face, image=image)


def _item(config: PrepareConfig, files: PictureFiles, row: Annotation, name: str) -> Item:
    skip: tuple[str, str] | None = None
    reference = name
    try:
        if not PurePosixPath(name).name:
            raise Skip("no picture named", f"frame {row.frame}: the labels name no picture, and pattern is not set")
        reference = files.find(name)
    except Skip as error:
        skip = (error.reason, error.detail)
    if skip is None and not (row.aus or row.absent) and (row.unknown or config.unnamed == "unknown"):
        skip = _UNLABELLED
    return Item(
        picture=reference,
        subject=_subject(config, reference, row.subject),
        task=row.task,
        frame=row.frame,
        aus=row.aus.format(),
        absent=tuple(sorted(row.absent)),
        unknown=tuple(sorted(row.unknown)),
        skip=skip,
    )


def _plain(config: PrepareConfig, files: PictureFiles) -> Iterator[Item]:
    for reference in files.walk():
        subject = _subject(config, reference, "")
        if config.source == "estimator":
            yield Item(reference, subject)
            continue
        try:
            aus = _sidecar(files.root / reference)
            skip = _UNLABELLED if aus == "0" and config.unnamed == "unknown" else None
            yield Item(reference, subject, aus=aus, skip=skip)
        except Skip as error:
            yield Item(reference, subject, skip=(error.reason, error.detail))


def _sidecar(picture: Path) -> str:
    """Codes in the .txt beside a picture, such as ``1C+2C+L12D``; 0 is the neutral face."""
    path = picture.with_suffix(".txt")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SIDECAR).decode("utf-8-sig").strip()
    except FileNotFoundError:
        raise Skip("no label", f"{path.name} is not beside {picture.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Skip("damaged label", f"{path.name}: {error}") from None
    if not text:
        raise Skip("no label", f"{path.name} is empty: write 0 for the neutral face")
    try:
        return AUSet.parse(text).format()
    except ValueError as error:
        raise Skip("bad notation", f"{path.name}: {error}") from None


def _subject(config: PrepareConfig, reference: str, said: str) -> str:
    if config.subjects == "picture":
        return reference
    if config.subjects == "folder":
        first, slash, _ = reference.partition("/")
        if not slash:
            raise ValueError(
                f'subjects = "folder": {reference} lies in no folder of its subject; "picture" needs none'
            )
        return first
    if not said:
        raise ValueError(
            f"{reference}: the labels do not say who is seen, so splits could share people. Set subjects to "
            '"folder" if each person has a folder, or to "picture" if nobody knows'
        )
    return said


# --- the list --------------------------------------------------------------------------------------------------------


def code_of(name: str) -> str:
    """The code of a unit or channel: ``"12"`` of ``"L12"``, ``"28"`` of ``"28:T"``."""
    code = name.partition(":")[0]
    return code if code in units else code[1:]


class _Classes:
    """Whether the labels tell anything apart: some unit must be there in one picture and absent in another."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.absent: set[str] = set()
        self.rows = 0
        self.counts: Counter[str] = Counter()

    def add(self, item: Item, unnamed: str) -> None:
        codes = AUSet.parse(item.aus).codes if item.aus else ()
        self.present.update(codes)
        self.absent.update(map(code_of, item.absent))
        self.rows += 1
        if unnamed == "absent":
            self.counts.update(codes)

    def check(self) -> None:
        differ = self.present & self.absent or any(0 < count < self.rows for count in self.counts.values())
        if not differ:
            there = ", ".join(sorted(self.present)) or "none"
            raise ValueError(
                f"one class only: of {self.rows} pictures no unit is there in one and absent in another (there: "
                f'{there}). If your labels name all that is seen, set unnamed = "absent"'
            )


def _sort(part: Path, path: Path, splits: dict[str, str], chunk: int) -> tuple[tuple[int, ...], dict[str, int]]:
    """Copy the list split by split; return where each chunk of items begins, and the count of each split."""
    offsets: list[int] = []
    counts = dict.fromkeys(SPLITS, 0)
    number, place = 0, 0
    temporary = path.with_suffix(".sorting")
    with temporary.open("wb") as out:
        for split in SPLITS:
            with part.open("r", encoding="utf-8") as file:
                for line in file:
                    value = json.loads(line)
                    if splits.get(value["subject"], "train") != split:
                        continue
                    if number % chunk == 0:
                        offsets.append(place)
                    text = (json.dumps({**value, "split": split}, ensure_ascii=False) + "\n").encode()
                    out.write(text)
                    place += len(text)
                    number += 1
                    counts[split] += 1
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
    return tuple(offsets), counts


def _nothing(part: Path, root: Path) -> str:
    reasons: Counter[str] = Counter()
    first = ""
    with part.open("r", encoding="utf-8") as file:
        for line in file:
            reason, detail = json.loads(line)["skip"]
            reasons[reason] += 1
            first = first or detail
    if not reasons:
        return f"{root} holds no pictures: {', '.join(sorted({'.jpg', '.png', '.webp'}))} and more are looked for"
    counted = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return f"no picture below {root} can be used: {counted}; first: {first}"
