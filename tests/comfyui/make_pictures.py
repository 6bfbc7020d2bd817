"""Draws the pictures of the help pages and the workflows' thumbnails. Run by hand; what is there already stays.

python tests/comfyui/make_pictures.py
"""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from auface_diffusers.anatomy import Camera, HeadModel, control_image, render, sample_appearances
from auface_diffusers.anatomy.control import KINDS
from auface_diffusers.anatomy.sheet import every_unit
from auface_diffusers.facs import AUSet, resolve, units
from comfyui_auface.keyframes import animate

ROOT = Path(__file__).parent.parent.parent
PERSON, SIZE, QUALITY = 3, 192, 75
SMILE = "6D+12E+25C"
STRIPS = {  # name: the scores from left to right
    "preset": ["0", "1+4+15", "1E+4E+15E"],
    "blend": [AUSet().blend(AUSet.parse(SMILE), share / 4).format() for share in range(5)],
    "mirror": ["L12D+L2C", "R12D+R2C"],
    "animate": str(animate(f"0: 0\n5: {SMILE}")).splitlines(),
    "head": ["0", "6C+12D", "1C+2C+5D+26C", "4D+7C+24C", "L10C+L14B"],
}


def strip(head, scores, framing="face"):
    """One person with each of the scores, side by side."""
    looks = [replace(sample_appearances(PERSON, 0, 1)[0], background="plain", noise=0.0)] * len(scores)
    with torch.no_grad():
        mesh = head(PERSON, scores)
        faces = render(mesh, looks, Camera.framed(framing, SIZE), head.levels(scores), supersample=2).image
    return picture(torch.cat(list(faces), 2))


def unit_strip(head, code):
    """Neutral, C and E of one unit, on one side where it has only one."""
    framing = "portrait" if units[code.lstrip("L")].region in ("head", "neck") else "face"
    return strip(head, [AUSet(), AUSet({code: "C"}), AUSet({code: "E"})], framing)


def controls(kinds, aus, size):
    """Control images side by side."""
    return picture(torch.cat([control_image(AUSet.parse(aus), kind, size)[0] for kind in kinds], 2))


def picture(image):
    """(3, H, W) in [0, 1] to a PIL image."""
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


def pictures(head):
    """Path and a function that draws it, for each picture."""
    folder = ROOT / "comfyui_auface" / "web" / "docs" / "images"
    for code in every_unit():
        yield folder / f"AU{code.lstrip('L')}.webp", lambda code=code: unit_strip(head, code)
    for name, scores in STRIPS.items():
        yield folder / f"{name}.webp", lambda scores=scores: strip(head, [AUSet.parse(one) for one in scores])
    yield folder / "control.webp", lambda: controls(KINDS, "1C+2C+5C+25C+26C", 160)
    folder = ROOT / "workflows"
    raw = AUSet.parse("12D+15D+24C+25D")
    said = [AUSet(), AUSet.parse("1C+2C+4B+L12D")]
    yield folder / "01_codes_to_text.jpg", lambda: strip(head, said)
    yield folder / "04_conflicting_units.jpg", lambda: strip(head, [resolve(raw).effective, raw])
    yield folder / "11_control_images.jpg", lambda: controls(("openpose", "normal"), "1C+2C+5C+25C+26C", 256)
    yield folder / "12_head_animation.jpg", lambda: strip(head, [AUSet(), AUSet.parse("5C"), AUSet.parse("6D+12D")])


def main():
    head = HeadModel.from_default()
    for path, draw in pictures(head):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draw().save(path, quality=QUALITY, **({"method": 6} if path.suffix == ".webp" else {}))


if __name__ == "__main__":
    main()
