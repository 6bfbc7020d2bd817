"""Draws what the generating nodes should draw, with the library alone and in ComfyUI's Python: equal to the pixel.

python reference_faces.py FOLDER   reads JSON lines {"name", "call", ...} and writes FOLDER/NAME-0.png and so on;
"adapters" of a line are files and how much each counts
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image

from auface_diffusers import VQAUFaceEditPipeline, VQAUFacePipeline
from auface_diffusers.models import AUEstimator


def edit(pipe, said):
    """The first face of one call, edited by another."""
    before = pipe(**said["before"], output_type="pt")
    # what a node hands on has gone through no file, so the picture is exact
    estimator = AUEstimator.from_default().eval() if said["fit"] else None
    told = {} if said["fit"] else {"source_aus": before.aus, "identity": before.identity}
    told |= {} if said["fit"] else {"attributes": before.attributes}
    options = dict(said["options"])
    if "mask" in options:
        options["mask"] = torch.tensor(options["mask"]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return VQAUFaceEditPipeline.from_pipe(pipe, estimator=estimator)(
        before.images, **told, **options, output_type="pt"
    )


def main(folder):
    pipe = VQAUFacePipeline.from_default()
    for line in sys.stdin:
        said = json.loads(line)
        worn = said.get("adapters", [])
        pipe.set_adapters([pipe.load_lora_weights(path) for path, _ in worn], [weight for _, weight in worn])
        if said["call"] == "edit":
            images = edit(pipe, said).images
        else:
            call = pipe.sequence if said["call"] == "film" else pipe
            images = call(**said["options"], output_type="pt").images
        for number, image in enumerate(images):
            pixels = (image.permute(1, 2, 0) * 255).clamp(0, 255).byte().numpy()  # as ComfyUI's SaveImage rounds
            Image.fromarray(pixels).save(Path(folder, f"{said['name']}-{number}.png"))
        pipe.unload_lora_weights()


if __name__ == "__main__":
    main(*sys.argv[1:])
