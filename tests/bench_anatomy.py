"""Speed of head, rasterizer and renderer: part of ``make bench``. Prints what was measured beside what is asked."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable

import torch

from auface_diffusers.anatomy import Camera, HeadModel, control_image, rasterize, render_faces
from auface_diffusers.anatomy.control import KINDS
from auface_diffusers.anatomy.identity import identity_codes
from auface_diffusers.facs import units


def best(call: Callable[[], object], times: int = 5) -> float:
    """Shortest of a few runs, in seconds; one before them does not count."""
    call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def report(what: str, value: str, asked: str) -> None:
    print(f"{what:58} {value:>16}   asked: {asked}", flush=True)


@torch.no_grad()
def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__} on {device}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    head = HeadModel.from_default().to(device)
    generator = torch.Generator().manual_seed(0)
    batch = 256 if device == "cuda" else 16
    codes = identity_codes(list(range(64)))
    levels = torch.rand(64, len(units.channels), generator=generator) * 5
    levels *= torch.rand(levels.shape, generator=generator) < 0.08
    seconds = best(lambda: head(codes, levels))
    report("mesh and landmarks, batch 64", f"{64 / seconds:,.0f} /s", ">= 1,000 /s")
    mesh = head(codes[:16], levels[:16])
    for size in (128, 256, 512):
        points = Camera(size).project(mesh.vertices)
        seconds = best(lambda points=points, size=size: rasterize(points, head.triangles, (size, size)))
        report(f"rasterize, {size} x {size}, batch 16", f"{16 / seconds:,.0f} /s", "-")
    people = list(range(batch))
    score = levels[torch.arange(batch) % 64].to(device)
    for size in (128, 256, 512):
        seconds = best(lambda size=size: render_faces(head, score, people, size), 3)
        asked = f">= {'1,000' if device == 'cuda' else '20'} /s" if size == 256 else "-"
        report(f"faces, all effects, {size} x {size}, batch {batch}", f"{batch / seconds:,.1f} /s", asked)
    own = torch.get_num_threads()
    for kind in KINDS:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seconds = best(lambda kind=kind: control_image(levels[:1], kind, 512, head=head))
            asked = "< 50 ms" if threads == 2 else "-"
            report(f"control image {kind}, 512 x 512, {threads} thread(s)", f"{seconds * 1000:.0f} ms", asked)
    torch.set_num_threads(own)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, 320, 16):
        render_faces(head, levels[:16], list(range(start, start + 16)), 128, start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    report("memory grown over 320 more faces", f"{grown:.0f} MB", "flat")


if __name__ == "__main__":
    main()
