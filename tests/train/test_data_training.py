"""Prepared pictures in training: the estimator learns from what is known, and nothing takes unknown for absent."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from train import picture_trees as trees

from auface_diffusers.anatomy import HeadModel
from auface_diffusers.facs import units
from auface_diffusers.models import AUEstimator
from train_lora.data.faces import NO_PART, FacesConfig, collate
from train_lora.data.labels import labels_where_known, observed_levels
from train_lora.data.shards import DATA_FILE, REPEATS, read_shard
from train_lora.loop import LoopConfig, Step, train
from train_lora.stages.estimator import EstimatorConfig, EstimatorStage
from train_lora.stages.tokenizer import TokenizerConfig, TokenizerStage

LOOP = LoopConfig(
    steps=3, batch_size=4, learning_rate=3e-3, warmup=1, ema=0.5, log_every=1, validate_every=3, save_every=3
)
MODEL = {"image_size": 32, "widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
C = {name: index for index, name in enumerate(units.channels)}


@pytest.fixture(scope="module")
def disfa(tmp_path_factory):
    """The folder of a prepared miniature of DISFA: 12 pictures of 2 people."""
    root = tmp_path_factory.mktemp("disfa")
    trees.made(root / "out", labels=str(trees.disfa(root / "data", frames=6)), balance=0.5)
    return root / "out"


def stage_config(shards, out, **values):
    data = FacesConfig(shards=str(shards))
    given = {"out": str(out), "train": LOOP, "data": data, "held_out": data, "calibration": data, "model": MODEL}
    return EstimatorConfig(**{**given, **values})


def batch_of(folder, numbers=range(12), **values):
    return FacesConfig(shards=str(folder / "train"), **values).open(pictures=True).__getitems__(list(numbers))


def test_a_batch_says_what_nobody_knows(disfa):
    batch = batch_of(disfa)
    assert batch.images.shape == (12, 3, trees.SIZE, trees.SIZE)
    assert (batch.parts == NO_PART).all()
    for name in ("identity", "pose", "gaze", "landmarks"):
        assert getattr(batch, name).isnan().all(), name
    assert batch.identity.shape == (12, 46)
    assert batch.levels[:, C["L10"]].isnan().all(), "DISFA has no 10"
    assert batch.levels[0, C["L4"]].isnan(), "9 in the first frame"
    assert batch.levels[1, C["L4"]] == 0
    assert batch.levels[:6, C["L12"]].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.scored.all()
    assert batch.to(torch.device("meta")).images.is_meta


def test_unscored_levels_are_marked(tmp_path):
    trees.made(tmp_path / "out", labels=str(trees.bp4d(tmp_path / "data")))
    batch = batch_of(tmp_path / "out", range(6))
    row = [label["frame"] for label in batch.labels].index("2441")
    assert not batch.scored[row, [C["L12"], C["R12"]]].any()
    assert batch.scored[row].sum() == len(C) - 2
    turns = HeadModel.from_default().turns.cpu()
    labels = labels_where_known(batch.levels, batch.scored, batch.pose, batch.gaze, turns)
    assert labels.present[row, C["L12"]]
    assert labels.mask[row, C["L12"]]
    assert not labels.graded[row, C["L12"]], "there, but nobody knows how strongly"


def test_unknown_is_masked_and_the_rest_is_as_ever():
    turns = HeadModel.from_default().turns.cpu()
    levels = torch.zeros(2, len(C))
    levels[:, C["L12"]], levels[:, C["26"]] = 4.0, 1.0
    pose, gaze = torch.tensor([[0.0, 0.0, 8.0]] * 2), torch.zeros(2, 2)
    whole = observed_levels(levels, pose, gaze, turns)
    same = labels_where_known(levels, torch.ones_like(levels, dtype=torch.bool), pose, gaze, turns)
    assert all(torch.equal(one, other) for one, other in zip(whole, same, strict=True))
    levels[0, C["L12"]] = levels[0, C["55"]] = math.nan
    pose[0] = math.nan
    part = labels_where_known(levels, torch.ones_like(levels, dtype=torch.bool), pose, gaze, turns)
    assert not part.mask[0, [C["L12"], C["55"]]].any()
    assert not part.graded[0, [C["L12"], C["55"]]].any()
    assert part.mask[0, C["R12"]]
    assert torch.equal(part.mask[1], whole.mask[1])


def test_the_estimator_learns_from_pictures(disfa, tmp_path):
    loop = dataclasses.replace(LOOP, steps=20, learning_rate=1e-3)
    config = stage_config(disfa / "train", tmp_path / "run", train=loop, strength=0.0)
    report = train(EstimatorStage(config), config.train, Path(config.out), {})
    assert report["finished"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["presence"] for line in lines if "presence" in line]
    assert np.isfinite(losses).all()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert {line["motion"] for line in lines if "motion" in line} == {0.0}, "pictures have no identity"
    made = AUEstimator.from_pretrained(tmp_path / "run" / "model")
    assert all(value.isfinite().all() for value in made.state_dict().values())
    assert not set(made.coverage) - {
        name for name in C if name.lstrip("LR").split(":")[0] in units.labelled_in("disfa")
    }


def test_unknown_channels_get_no_gradient(disfa, tmp_path):
    stage = EstimatorStage(stage_config(disfa / "train", tmp_path, strength=0.0))
    model = stage.players["estimator"]
    seen = {}
    model.register_forward_hook(
        lambda module, given, out: (out.presence_logits.retain_grad(), seen.update(out=out))[1]
    )
    batch = batch_of(disfa, range(1, 5))
    ((_, loss, _),) = list(stage.losses(batch, Step(0, 0.0, (0, 0, 0, 0))))  # seed 0: nothing is mirrored
    loss.backward()
    gradient = seen["out"].presence_logits.grad.abs().sum(0)
    assert loss.isfinite()
    assert gradient[C["L10"]] == 0
    assert gradient[C["L1"]] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_pictures_and_made_faces_share_a_batch(disfa, faces, tmp_path):
    own = [sample for _, sample in read_shard(disfa / "train" / "faces-000000.tar")][:2]
    made = [sample for _, sample in read_shard(Path(faces.out) / "faces-000000.tar")][:2]
    batch = collate([*own, *made])
    stage = EstimatorStage(stage_config(disfa / "train", tmp_path))
    ((_, loss, values),) = list(stage.losses(batch, Step(0, 0.0, (1, 2, 3, 4))))
    assert loss.isfinite()
    assert values["motion"] > 0
    assert values["landmarks"] > 0


def test_rare_units_come_more_often_when_asked(disfa):
    plain = FacesConfig(shards=str(disfa / "train")).open(pictures=True)
    balanced = FacesConfig(shards=str(disfa / "train"), balanced=True).open(pictures=True)
    factors = np.load(disfa / "train" / REPEATS)
    assert factors.max() == 1, "12 is on ten of twelve: not rare"
    assert len(balanced) == len(plain)
    np.save(disfa / "train" / REPEATS, np.array([3.0] + [1.0] * 11, np.float32))
    try:
        balanced = FacesConfig(shards=str(disfa / "train"), balanced=True).open(pictures=True)
        assert len(balanced) == 14
        pictures = [label["picture"] for label in balanced.__getitems__(list(range(14))).labels]
        assert pictures.count(plain.__getitems__([0]).labels[0]["picture"]) == 3
        assert len(FacesConfig(shards=str(disfa / "train"), faces=2, balanced=True).open(pictures=True)) == 4
    finally:
        np.save(disfa / "train" / REPEATS, factors)


def test_what_cannot_be_balanced_says_so(disfa, faces):
    with pytest.raises(ValueError, match=r"has no repeats\.npy: only the training split"):
        FacesConfig(shards=faces.out, balanced=True).open()
    with pytest.raises(ValueError, match="balanced repeats pictures"):
        FacesConfig(faces=8, balanced=True).open()


def test_stages_that_need_made_faces_refuse_pictures(disfa, tmp_path):
    data = FacesConfig(shards=str(disfa / "train"))
    with pytest.raises(ValueError, match=r"holds pictures, which have no part map.*train_lora synth"):
        TokenizerStage(TokenizerConfig(out=str(tmp_path), train=LOOP, data=data, held_out=data))


def test_a_folder_that_is_not_finished_is_no_shards(disfa, tmp_path):
    with pytest.raises(ValueError, match="holds no shards"):
        FacesConfig(shards=str(disfa)).open(pictures=True)  # the splits lie below
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "faces-000000.tar").write_bytes((disfa / "train" / "faces-000000.tar").read_bytes())
    with pytest.raises(ValueError, match="holds no shards"):
        FacesConfig(shards=str(tmp_path / "train")).open(pictures=True)
    (tmp_path / "train" / DATA_FILE).write_text((disfa / "train" / DATA_FILE).read_text())
    assert len(FacesConfig(shards=str(tmp_path / "train")).open(pictures=True)) == 12
