"""Draws what the nodes should draw, with the library alone and in ComfyUI's Python: same torch, so equal to the pixel.

python reference.py FOLDER   reads JSON lines {"name", "draw", ...} and writes FOLDER/NAME.png
"""

import json
import sys
from pathlib import Path

from PIL import Image

from auface_diffusers.anatomy import HeadModel, control_image, render_faces
from auface_diffusers.facs import AUSet, resolve


def main(folder):
    head = HeadModel.from_default()
    for line in sys.stdin:
        said = json.loads(line)
        aus = AUSet.parse(said["codes"])
        aus = resolve(aus).effective if said.get("resolved", True) else aus
        if said["draw"] == "head":
            images = render_faces(head, aus, said["identity"], said["size"], 0, background="plain")
        else:
            images = control_image(aus, said["draw"], said["size"])
        pixels = (images[0].permute(1, 2, 0) * 255).clamp(0, 255).byte().numpy()  # as ComfyUI's SaveImage rounds
        Image.fromarray(pixels).save(Path(folder, f"{said['name']}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
