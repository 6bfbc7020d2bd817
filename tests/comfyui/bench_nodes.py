"""What the generating nodes cost over the calls of the library that they make, and what the pack costs at start-up.

Run by hand, in the Python and with the checkout of a ComfyUI that `make comfyui` prepared:

    PYTHONPATH=. ~/.cache/auface-tests/venv/bin/python tests/comfyui/bench_nodes.py ~/.cache/auface-tests/ComfyUI
"""

import statistics
import sys
import time

checkout, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, checkout)
sys.argv[1:] = ["--cpu"]

import comfy.options  # noqa: E402 - ComfyUI is found by the line above

comfy.options.enable_args_parsing()

import asyncio  # noqa: E402

import utils.extra_config  # noqa: E402, F401 - before nodes, which puts another utils in front

RUNS = 15

import nodes  # noqa: E402, F401 - ComfyUI's own, so that only ours are timed
import server  # noqa: E402 - the same
import torch  # noqa: E402
from comfy_api.latest import io  # noqa: E402, F401 - the same


def start_up():
    """Seconds for the nodes and their schemas, torch and ComfyUI being there already."""
    start = time.perf_counter()
    from comfyui_auface import comfy_entrypoint

    found = asyncio.run(comfy_entrypoint().get_node_list())
    return time.perf_counter() - start, len(found)


def paired(first, second):
    """Medians of two calls in seconds, taken in turns so that both meet the same machine, and of their difference."""
    times = []
    for _ in range(RUNS + 1):  # the first does not count
        pair = []
        for call in (first, second):
            start = time.perf_counter()
            call()
            pair.append(time.perf_counter() - start)
        times.append(pair)
    a, b = zip(*times[1:], strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(y - x for x, y in times[1:])


def line(what, found, asked=""):
    print(f"{what:52} {found:>34}   {asked}", flush=True)


@torch.inference_mode()
def main():
    seconds, count = start_up()
    line(f"start-up of the pack, {count} nodes", f"{seconds * 1e3:.0f} ms", "asked: < 300 ms")
    from comfyui_auface import models, nodes_edit, nodes_generate
    from comfyui_auface.expression import Expression

    server.PromptServer.instance = server.PromptServer(asyncio.new_event_loop())
    smile, frown = Expression.parse("6C+12D"), Expression.parse("4D+15C")
    model = models.load_model("embedded", None, "fp32", "auto")
    pipe = models.ready(model, 1)
    look = dict.fromkeys(("gender", "skin", "hair_style", "hair_color", "background"), "any")
    look |= dict.fromkeys(("yaw", "pitch", "roll", "gaze_yaw", "gaze_pitch"), 0.0)
    options = look | {"age": 0, "light": "", "prompt": "", "identity": 7, "batch": "same scene", "copies": 1}
    options |= {"steps": 0, "guidance": 0.0, "seed": 0, "model": model, "expression": smile}

    class Hidden:
        unique_id = None

    generate = type("Generate", (nodes_generate.AUFaceGenerate,), {"hidden": Hidden})
    edit = type("Edit", (nodes_edit.AUFaceEdit,), {"hidden": Hidden})

    def library():
        pipe(aus="6C+12D", identity=7, seed=[0], output_type="pt")

    a, b, more = paired(library, lambda: generate.execute(**options))
    line(
        "one face, library and node",
        f"{a * 1e3:.0f} ms, {b * 1e3:.0f} ms, more: {more * 1e3:.1f} ms",
        "asked: <= 5 ms",
    )
    image, _, _, people = generate.execute(**options).result
    picture, told = image.permute(0, 3, 1, 2), {"identity": people.codes, "attributes": list(people.attributes)}
    from auface_diffusers import VQAUFaceEditPipeline

    plain = VQAUFaceEditPipeline.from_pipe(pipe, estimator=None)
    plain.set_progress_bar_config(disable=True)

    def library_edit():
        plain(picture, aus="4D+15C", source_aus=list(people.expression), **told, seed=[0], output_type="pt")

    given = {"model": model, "image": image, "expression": frown, "strength": 1.0, "keep_rest": True, "people": people}
    a, b, more = paired(library_edit, lambda: edit.execute(**given, steps=0, guidance=0.0, seed=0))
    line(
        "one edit, library and node",
        f"{a * 1e3:.0f} ms, {b * 1e3:.0f} ms, more: {more * 1e3:.1f} ms",
        "asked: <= 5 ms",
    )


if __name__ == "__main__":
    main()
