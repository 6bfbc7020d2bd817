"""Draws the pictures of the help pages and the workflows' thumbnails. Run by hand; what is there already stays.

python tests/comfyui/make_pictures.py
"""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.anatomy import Camera, HeadModel, control_image, render, sample_appearances
from auface_diffusers.anatomy.control import KINDS
from auface_diffusers.anatomy.sheet import every_unit
from auface_diffusers.facs import AUSet, resolve, units
from auface_diffusers.metrics.detectors import load_detector
from comfyui_auface import bars, judging, scoring
from comfyui_auface.expression import Expression
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


def scored(head, wanted, shown):
    """The detector, what is asked for, faces (N, H, W, 3) of one person that show something, and what is seen in them.

    Args:
        wanted: FACS codes, one for all or a line for each. shown: codes of each face.
    """
    looks = [replace(sample_appearances(PERSON, 0, 1)[0], background="plain", noise=0.0)] * len(shown)
    scores = [AUSet.parse(one) for one in shown]
    with torch.no_grad():
        mesh = head(PERSON, scores)
        faces = render(mesh, looks, Camera.framed("face", SIZE), head.levels(scores), supersample=2).image
    images = faces.clamp(0, 1).permute(0, 2, 3, 1)
    detector = load_detector("auface")
    asked = scoring.ask(detector, len(shown), Expression.parse(wanted))
    return detector, asked, images, scoring.joined(list(scoring.look(detector, images)))


def detected(head, *shown):
    """Faces with what is seen in them, below each other."""
    detector, _, images, seen = scored(head, "0", shown)
    panels = list(bars.face_panels(detector, scoring.pictures(images), seen, 0.5))
    return picture(torch.cat(panels, 1)[0].permute(2, 0, 1))


def score_picture(head, shown=("6C+12D+25C", "1C+2C+5C+26C", "4D+15C+17C", "L12D")):
    """Bars of faces that show what was asked for, more or less."""
    detector, asked, _, seen = scored(head, "6C+12D+25C\n1C+2C+5C+26C\n4D+15C+17C\n12D", shown)
    judged = judging.judge(detector, asked, seen, list(scoring.renders(detector, asked.scores, 2)))
    return picture(bars.score_bars(judged)[0].permute(2, 0, 1))


def ranked(head):
    """Faces from the best to the worst, for 6C+12D+25C."""
    shown = ["0", "12B", "6C+12D+25C", "1C+2C+5C", "6C+12D", "15D+17C"]
    _, asked, images, seen = scored(head, "6C+12D+25C", shown)
    kept = judging.best(judging.face_scores(asked, seen), seen.found, len(shown))
    return picture(torch.cat(list(images[kept]), 1).permute(2, 0, 1))


def best_of(count, kept, codes="1C+2C+4C+5C+20C+25C"):
    """The best faces of an expression that the embedded model has drawn, beside the worst."""
    pipe, detector = VQAUFacePipeline.from_default(), load_detector("auface")
    drawn = pipe(codes, identity=7, num_images_per_prompt=count, seed=0, output_type="pt").images.permute(0, 2, 3, 1)
    asked = scoring.ask(detector, count, Expression.parse(codes))
    order = judging.best(*fits_of(asked, detector, drawn), count)
    chosen = [picture(drawn[row].permute(2, 0, 1)).resize((SIZE, SIZE)) for row in (*order[:kept], order[-1])]
    return side_by_side(chosen)


def fits_of(asked, detector, images):
    """Agreement and whether there is a face, of each image."""
    seen = scoring.joined(list(scoring.look(detector, images)))
    return judging.face_scores(asked, seen), seen.found


def side_by_side(images):
    """PIL images of one height in a row."""
    whole = Image.new("RGB", (sum(one.width for one in images), images[0].height))
    for place, one in enumerate(images):
        whole.paste(one, (sum(before.width for before in images[:place]), 0))
    return whole


def with_control(head, codes, kind):
    """A face and the control image of its expression."""
    face = strip(head, [AUSet.parse(codes)]).resize((256, 256))
    return side_by_side([controls((kind,), codes, 256), face])


def pictures(head):
    """Path and a function that draws it, for each picture."""
    folder = ROOT / "comfyui_auface" / "web" / "docs" / "images"
    for code in every_unit():
        yield folder / f"AU{code.lstrip('L')}.webp", lambda code=code: unit_strip(head, code)
    for name, scores in STRIPS.items():
        yield folder / f"{name}.webp", lambda scores=scores: strip(head, [AUSet.parse(one) for one in scores])
    yield folder / "control.webp", lambda: controls(KINDS, "1C+2C+5C+25C+26C", 160)
    yield folder / "detect.webp", lambda: detected(head, "6C+12D+25C", "1C+2C+5C+26C", "4D+15C+17C")
    yield folder / "score.webp", lambda: score_picture(head)
    yield folder / "filter.webp", lambda: ranked(head)
    folder = ROOT / "workflows"
    raw = AUSet.parse("12D+15D+24C+25D")
    said = [AUSet(), AUSet.parse("1C+2C+4B+L12D")]
    yield folder / "01_codes_to_text.jpg", lambda: strip(head, said)
    yield folder / "04_conflicting_units.jpg", lambda: strip(head, [resolve(raw).effective, raw])
    yield folder / "07_best_of_n.jpg", lambda: best_of(8, 2)
    yield folder / "08_au_controlnet_sd15.jpg", lambda: with_control(head, "1C+2C+5C+25C+26C", "openpose")
    yield folder / "09_score_any_faces.jpg", lambda: detected(head, "6C+12D+25C").reduce(2)
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
