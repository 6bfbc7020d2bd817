"""Speed of the FACS core: ``make bench``. Prints what was measured beside what design asks for; asserts nothing.

The rows are random, so that caches help little: a real video, whose neighbouring frames say the same, is faster. It is
measured as well, with levels that drift from frame to frame.
"""

from __future__ import annotations

import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from auface_diffusers.facs import AUSet, describe, read_text, resolve, units
from auface_diffusers.facs.captions import caption_file

ROWS = 302_000  # image-text pairs of BP4D-AUText
LEVELS = units.labelled_in("openface-r")
FLAGS = units.labelled_in("openface-c")


def best(call: Callable[[], object], times: int = 3) -> float:
    """Shortest of a few runs, in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def distinct_sets(count: int) -> list[AUSet]:
    """Different scores of one to eight units, one in three on one side only."""
    rng = random.Random(0)
    codes = [unit.code for unit in units.values() if unit.still and unit.number < 47]
    found: set[AUSet] = set()
    while len(found) < count:
        chosen = {}
        for code in rng.sample(codes, rng.randint(1, 8)):
            side = rng.choice(("", "", "L", "R")) if units[code].parts == "sides" else ""
            chosen[side + code] = rng.randint(1, 5)
        found.add(AUSet(chosen))
    return list(found)


def random_rows(rng: random.Random) -> Iterator[list[float]]:
    while True:
        yield [max(0.0, min(5.0, rng.gauss(0.4, 1.2))) for _ in LEVELS]


def drifting_rows(rng: random.Random) -> Iterator[list[float]]:
    """Expressions that come and go within seconds at 30 frames a second."""
    pace = [rng.uniform(40, 400) for _ in LEVELS]
    frame = 0
    while True:
        frame += 1
        yield [max(0.0, min(5.0, 3 * math.sin(frame / p) + rng.gauss(-0.5, 0.03))) for p in pace]


def write_file(path: Path, rows: Iterator[list[float]]) -> None:
    """An OpenFace 2 file without the landmark columns: frame, face, levels and presence flags."""
    names = [f"AU{int(code):02d}_r" for code in LEVELS] + [f"AU{int(code):02d}_c" for code in FLAGS]
    with path.open("w") as file:
        file.write(", ".join(["frame", "face_id", "timestamp", "confidence", "success", *names]) + "\n")
        for frame in range(1, ROWS + 1):
            levels = dict(zip(LEVELS, next(rows), strict=True))
            flags = [levels.get(code, 0.0) >= 1 for code in FLAGS]
            cells = [f"{level:.2f}" for level in levels.values()] + [f"{flag:.2f}" for flag in flags]
            file.write(", ".join([str(frame), "0", f"{frame / 30:.3f}", "0.98", "1", *cells]) + "\n")


def import_time() -> float:
    """Seconds that the import adds to a bare interpreter; the best of ten of each."""
    bare, full = (
        best(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True), 10)
        for code in ("pass", "import auface_diffusers.facs")
    )
    return full - bare


def report(what: str, value: str, asked: str) -> None:
    print(f"{what:58} {value:>16}   asked: {asked}", flush=True)


def main() -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    report("import auface_diffusers.facs", f"{import_time() * 1000:.0f} ms", "< 50 ms")
    sets = distinct_sets(20_000)
    describe(sets[0]), read_text(describe(sets[0]).text)  # load the tables
    for what, call in (
        ("resolve", resolve),
        ("describe, anatomical", describe),
        ("describe, anatomical, seeded", lambda aus: describe(aus, seed=1)),
        ("describe, compact", lambda aus: describe(aus, "compact")),
    ):
        seconds = best(lambda call=call: [call(aus) for aus in sets])
        report(f"{what}, distinct sets, one core", f"{len(sets) / seconds:,.0f} /s", ">= 5,000 /s (describe)")
    texts = [describe(aus).text for aus in sets[:2000]]
    report("read_text", f"{len(texts) / best(lambda: [read_text(text) for text in texts], 1):,.0f} /s", "-")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "openface.csv"
        for what, rows in (("random", random_rows), ("drifting", drifting_rows)):
            write_file(path, rows(random.Random(0)))
            start = time.perf_counter()
            caption_file(path, Path(folder) / "out.jsonl", workers=os.cpu_count() or 1)
            seconds = time.perf_counter() - start
            report(f"{ROWS:,} OpenFace rows to text, {what} levels", f"{seconds:.1f} s", "< 30 s on 2 cores")
    for what, who in (("main process", resource.RUSAGE_SELF), ("largest worker", resource.RUSAGE_CHILDREN)):
        report(f"peak memory, {what}", f"{resource.getrusage(who).ru_maxrss / 1024:.0f} MB", "flat")


if __name__ == "__main__":
    main()
