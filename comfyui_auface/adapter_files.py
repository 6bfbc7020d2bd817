"""Adapter files: those of AUFace among all LoRAs, told apart by their head. Needs no ComfyUI and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyui_auface.model_files import inside, walk

if TYPE_CHECKING:
    from auface_diffusers.pipelines.adapter_files import AdapterInfo

Places = Mapping[str, Sequence[str]]
"""Folders by what stands before the names of their files, such as "loras". The folders need not be there."""
ENDING = ".safetensors"
KEY = b'"auface_adapter"'
"""What only the header of our adapters has: the HEADER of ``pipelines.adapter_files``, which would load torch."""
NO_FILE = "no adapter yet"
"""The only choice while there is no adapter: a menu must not be empty."""
MAX_HEAD = 100_000_000
"""Bytes of a header that safetensors reads at most."""
MAX_LISTED = 8


def list_adapters(places: Places) -> dict[str, Path]:
    """Adapters of ours by name, sorted. Of several folders of a place the first that has a file of the name counts.

    A name begins with its place, always: so it stays what it is when a file of the same name appears elsewhere.
    """
    found: dict[str, Path] = {}
    for place, roots in places.items():
        for root in roots:
            for folder, _, names in walk(root):
                for path in (Path(folder, name) for name in names if name.lower().endswith(ENDING)):
                    if is_adapter(path):
                        found.setdefault(f"{place}/{path.relative_to(root).as_posix()}", path)
    return dict(sorted(found.items()))


def is_adapter(path: Path) -> bool:
    """Whether a file is an adapter of ours. One that cannot be read at present is none, and is looked at again."""
    try:
        return _has_key(path, *file_stamp(path))
    except OSError:
        return False


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: another stamp is another file. Raises `OSError`."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=16384)
def _has_key(path: Path, size: int, changed: int) -> bool:
    """Read no more than the head; ``changed`` only tells files apart. What raises is not remembered."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length <= min(size - 8, MAX_HEAD) and KEY in file.read(length)


def find_adapter(name: str, places: Places) -> Path:
    """The file that a menu calls ``name``. Whether it is an adapter that can be used is for its reader to say.

    Raises:
        ValueError: there is none, or the name leads out of its place; says where to put which file.
    """
    there = list_adapters(places)
    if name in there:
        return there[name]
    for place, roots in places.items():
        start, inner = name[: len(place) + 1], name[len(place) + 1 :]
        if start == f"{place}/" and inside(inner):
            paths = [Path(root, inner) for root in roots]
            for path in filter(Path.is_file, paths):
                return path
    raise ValueError(_why_missing(name, list(there), places))


def _why_missing(name: str, there: Sequence[str], places: Places) -> str:
    roots = [root for some in places.values() for root in some]
    put = (
        "An adapter is the .safetensors file that `python -m train_lora adapter` writes: put it into "
        f"{roots[0]} and press R"
    )
    if not there:
        return f"adapter {name!r}: there is no adapter in {' or '.join(roots)}. {put}"
    more = f" and {len(there) - MAX_LISTED} more" if len(there) > MAX_LISTED else ""
    listed = ", ".join(there[:MAX_LISTED])
    return f"adapter {name!r} is not in {' or '.join(roots)}; there are {listed}{more}. {put}"


def about(info: AdapterInfo, strength: float) -> str:
    """What an adapter is, in lines for people: kind, rank, strength, what it learned from, its trigger words."""
    lines = [f"{info.kind}, rank {info.rank}, strength {strength:g}", _learned(info.data, info.steps)]
    lines += [f"trigger: {info.trigger} (stands before each text by itself)"] if info.trigger else []
    lines += ["person: drawn where VQ-AUFace Generate has identity -1"] if info.person else []
    return "\n".join(line for line in lines if line)


def _learned(data: Mapping[str, Any], steps: int) -> str:
    """The summary of the pictures, as far as the maker of the file has given one."""
    counts = [f"{data[key]} {key}" for key in ("pictures", "people") if isinstance(data.get(key), int)]
    told = [" of ".join(counts)] if counts else []
    told += [f"{steps} steps"] if steps else []
    units = data.get("units")
    told += [f"units {', '.join(map(str, units))}"] if isinstance(units, Mapping) and units else []
    return f"trained on {'; '.join(told)}" if told else ""
