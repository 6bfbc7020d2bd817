"""The embedded weights do what they are for: few faces and wide margins; `train_lora.report` measures in earnest."""

from pathlib import Path

import pytest
import torch

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.facs import units
from auface_diffusers.metrics import geometry
from auface_diffusers.models import AUEstimator

WEIGHTS = Path(__file__).parent.parent / "auface_diffusers" / "weights"
PEOPLE = [101, 102, 103, 104]
pytestmark = pytest.mark.skipif(not (WEIGHTS / "default").exists(), reason="no embedded weights in this checkout")


@pytest.fixture(scope="module")
def pipe():
    made = VQAUFacePipeline.from_default()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def estimator():
    return AUEstimator.from_default(evaluation=True).eval()


def faces(pipe, code, **options):
    return pipe(code, identity=PEOPLE, seed=PEOPLE, output_type="pt", **options).images


def read(estimator, images, channel):
    with torch.no_grad():
        return estimator(images).presence[:, units.channels.index(channel)]


def test_small_files_without_pickle():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".csv", ".webp", ".txt"}
    assert max(path.stat().st_size for path in weights) <= 15e6
    assert sum(path.stat().st_size for path in weights) <= 70e6


@pytest.mark.parametrize(("code", "channel"), [("12E", "L12"), ("27E+25E", "27"), ("43E", "L43"), ("4E", "R4")])
def test_a_unit_is_drawn_and_read(pipe, estimator, code, channel):
    shown, rest = (read(estimator, faces(pipe, one), channel) for one in (code, "0"))
    assert (shown > rest).float().mean() >= 0.75
    assert shown.mean() > rest.mean() + 0.1


def test_a_side_is_the_persons_own(pipe, estimator):
    """By the landmarks: the corner that is asked for goes up and out."""
    with torch.no_grad():
        rest, shown = (estimator(faces(pipe, code)).landmarks.numpy() for code in ("0", "L12E"))
    left, right = (geometry.movements(shown, rest)[:, geometry.columns().index(name)] for name in ("L12", "R12"))
    assert (left > right + 0.02).all()


def test_a_person_stays_the_same(pipe):
    smiling, frowning = (faces(pipe, code, attributes={"background": "gray"}) for code in ("12D+6C", "4D+15D"))
    hair = (slice(None), slice(None), slice(0, 24))  # nothing moves there
    same = (smiling - frowning).abs()[hair].mean()
    other = (smiling - frowning.roll(1, 0)).abs()[hair].mean()
    assert same < 0.5 * other


def test_a_seed_is_a_face(pipe):
    one, two, other = (pipe("12D", identity=7, seed=seed, output_type="pt").images for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_free_words_are_read(pipe):
    with pytest.warns(UserWarning, match="12"):
        out = pipe("a woman with a big broad smile", identity=7, seed=0, num_inference_steps=1)
    assert out.aus[0].level("12") > 0
