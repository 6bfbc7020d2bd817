"""Draws the help pages' pictures and the workflows' thumbnails that need the generator. Run by hand after a change of
the embedded weights: everything is drawn anew.

python tests/comfyui/make_generated_pictures.py [ADAPTER]   with an adapter's file, only what shows one: that of
the clay faces that train_lora/configs/adapter-style.toml speaks of
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from auface_diffusers import VQAUFaceEditPipeline, VQAUFacePipeline
from comfyui_auface.keyframes import animate

ROOT = Path(__file__).parent.parent.parent
PERSON, SIZE, QUALITY = 7, 192, 75
EIGHT = ["0", "6C+12D", "1C+2C+5C+26C", "4D+5C+7C+23C", "1D+4C+15D", "9D+10C", "1C+2C+4C+5C+20C+25C", "L12C+L14B"]
LOOKS = [{}, {"age": 75}, {"gender": "female", "hair": "long red"}, {"skin": "dark"}, {"head_pose": (25, 0, 0)}]


def side_by_side(images):
    """(B, 3, H, W) in [0, 1] to one picture."""
    wide = torch.nn.functional.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return Image.fromarray((torch.cat(list(wide), 2).permute(1, 2, 0) * 255).round().byte().numpy())


def faces(pipe, scores, **options):
    """One person and scene with each of the scores."""
    options = {"identity": PERSON, "attributes": {"background": "gradient"}} | options
    return pipe(scores, seed=[0] * len(scores), output_type="pt", **options).images


def edited(pipe):
    """A neutral face, the same smiling, and where it was drawn again."""
    edit = VQAUFaceEditPipeline.from_pipe(pipe, estimator=None)
    before = pipe("0", identity=12, seed=0, output_type="pt")
    told = {"source_aus": before.aus, "identity": before.identity, "attributes": before.attributes}
    after = edit(before.images, "6C+12D+25C", **told, seed=0, output_type="pt")
    side = before.images.shape[-1] // after.edited.shape[-1]
    mask = after.edited[:, None].float().repeat_interleave(side, 2).repeat_interleave(side, 3).expand(-1, 3, -1, -1)
    return torch.cat([before.images, after.images, mask])


def pictures(pipe):
    """Path and image of each picture."""
    folder = ROOT / "comfyui_auface" / "web" / "docs" / "images"
    eight = faces(pipe, EIGHT)
    film = pipe.sequence(list(animate("0: 0\n4: 6D+12D")), identity=PERSON, seed=0, output_type="pt").images
    change = edited(pipe)
    yield folder / "generate.webp", eight[:5]
    yield folder / "attributes.webp", faces(pipe, ["6B+12C"] * len(LOOKS), attributes=LOOKS)
    yield folder / "film.webp", film
    yield folder / "edit.webp", change
    folder = ROOT / "workflows"
    yield folder / "02_generate_and_score.jpg", eight[[1, 2]]
    yield folder / "03_one_identity_eight_expressions.jpg", eight[[1, 3, 4, 6]]
    yield folder / "05_animate_expression.jpg", film[[0, 2, 4]]
    yield folder / "06_edit_expression.jpg", change[:2]


def adapted(pipe, file):
    """Path and image of each picture that shows an adapter."""
    scores = ["6C+12D", "1C+2C+5C+26C"]
    pipe.load_lora_weights(file, "clay")
    drawn = []
    for weight in (0.0, 0.5, 1.0):
        pipe.set_adapters("clay", weight)
        drawn.append(faces(pipe, scores, attributes={}))
    yield ROOT / "comfyui_auface" / "web" / "docs" / "images" / "lora.webp", torch.cat([one[:1] for one in drawn])
    yield ROOT / "workflows" / "10_adapter.jpg", torch.cat([drawn[0], drawn[2]])


def main(*adapter):
    pipe = VQAUFacePipeline.from_default()
    pipe.set_progress_bar_config(disable=True)
    for path, images in adapted(pipe, *adapter) if adapter else pictures(pipe):
        webp = {"method": 6} if path.suffix == ".webp" else {}
        side_by_side(images).save(path, quality=QUALITY, **webp)


if __name__ == "__main__":
    main(*sys.argv[1:])
