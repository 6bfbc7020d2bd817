"""Properties 17 and 19 of AAAD, asked of the embedded estimator and pipeline (`make test-all`)."""

import json

import numpy as np
import pytest
import torch

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.anatomy import Camera, HeadModel, render, sample_appearances
from auface_diffusers.cli_models import model_hash
from auface_diffusers.evaluation import EvaluationConfig, evaluate_model
from auface_diffusers.evaluation.faces import dose_gate, pictures
from auface_diffusers.facs import AUSet, units
from auface_diffusers.metrics.detectors import load_detector
from auface_diffusers.metrics.levels import spearman
from auface_diffusers.metrics.suite import load_suite
from auface_diffusers.models.au_estimator import WEIGHTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (WEIGHTS / "default").exists(), reason="no embedded weights in this checkout"),
]
CAMERA = Camera.framed("face", 128)
STEPS = 11
PEOPLE = range(70000, 70006)
"""Not those of the gate, which chose the units."""


@pytest.fixture(scope="module")
def detector():
    return load_detector("auface")


def read(detector, score, head, looks):
    with torch.no_grad():
        scores = [score] * len(looks)
        images = render(head(list(PEOPLE), scores), looks, CAMERA, head.levels(scores)).image.clamp(0, 1)
    return detector(pictures(images)).presence.mean(0)


def test_presence_rises_as_a_unit_is_blended_in(detector):
    """Property 17: the gate keeps only units that do, and they do on other people too."""
    head = HeadModel.from_default()
    looks = [sample_appearances([who], who, 1)[0] for who in PEOPLE]
    dropped = dose_gate(detector, CAMERA, 4)
    kept = [name for name in detector.coverage if name not in dropped]
    assert len(kept) >= 20
    found = {}
    for unit in units.values():
        own = [name for name in kept if name == unit.code or name == f"L{unit.code}"]
        if own:
            score = AUSet({own[0]: 5})
            seen = np.stack([read(detector, score.scale(step / (STEPS - 1)), head, looks) for step in range(STEPS)])
            column = list(detector.columns).index(own[0])
            found[own[0]] = spearman(np.arange(float(STEPS))[:, None], seen[:, [column]], least=2)[0]
    rising = [name for name, rho in found.items() if rho >= 0.9]
    assert len(rising) >= 0.9 * len(found), {name: round(rho, 2) for name, rho in found.items() if not rho >= 0.9}


def test_the_same_call_gives_the_same_bytes(detector, tmp_path):
    """Property 19: with the hashes of model, detector and suite inside."""
    pipe = VQAUFacePipeline.from_default()
    pipe.set_progress_bar_config(disable=True)
    config = EvaluationConfig(steps=2, gate=2, images=1, resamplings=50, permutations=5, least=2)
    name, suite = model_hash(WEIGHTS / "default"), load_suite("demo")
    files = []
    for run in ("a", "b"):
        evaluate_model(pipe, name, suite, detector, tmp_path / run, config)
        files.append((tmp_path / run / "report.json").read_bytes())
    assert files[0] == files[1]
    report = json.loads(files[0])
    assert report["model"] == name
    assert report["suite"]["hash"] == suite.hash
    assert report["detectors"][0]["sha"] == detector.hash
