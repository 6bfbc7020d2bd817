"""The report of a generator: what it writes, what it refuses, and that its measure measures."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from auface_diffusers.facs import AUSet, units
from train_lora.data.sample_aus import held_out
from train_lora.data.shards import write_shard
from train_lora.report import ReportConfig, alignment, channel_alignment, report, specs

_spec = importlib.util.spec_from_file_location("toy_pipeline", Path(__file__).parents[1] / "toy_pipeline.py")
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)


@pytest.fixture
def config(tmp_path):
    toy.save_weights(tmp_path / "weights")
    place = tmp_path / "weights"
    return ReportConfig(
        out=str(tmp_path / "report"),
        model=str(place / "default"),
        estimator=str(place / "evaluation_estimator"),
        sets=4,
        images=1,
        steps=1,
    )


def test_a_report_is_whole(config, monkeypatch):
    monkeypatch.setattr("train_lora.report.LEVEL_CODES", ("12", "46"))
    result = report(config)
    out = Path(config.out)
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(result, allow_nan=False))
    assert result["images"] == result["sets"] == 88 + 3 * 4
    assert set(result["levels"]) == {"12", "46"}
    assert result["sided"]["alignment"] is None, "four images are too few"
    assert "| sided | n/a | n/a |" in (out / "report.md").read_text()
    assert Image.open(out / "samples.png").size == (8 * 64, 8 * 64)
    assert Image.open(out / "worst.png").size == (8 * 64, 4 * 64)


def test_the_scores_are_held_out_and_enough():
    asked = specs(ReportConfig(out="", model="", estimator=""))
    assert len(asked) >= 400
    for one in asked:
        assert all(level == int(level) for _, level in one.aus.items())
        assert len(one.aus.codes) < 2 or held_out(one.aus)
    assert {one.kind for one in asked} == {"single", "sided", "natural", "conflict"}


def test_a_score_that_was_trained_is_refused(config, tmp_path):
    aus = next(one.aus for one in specs(config) if one.kind == "conflict")
    (tmp_path / "shards").mkdir()
    label = json.dumps({"aus": aus.format()}).encode()
    write_shard(tmp_path / "shards" / "faces-000000.tar", [("000000000", {"json": label})])
    with pytest.raises(ValueError, match="1 scores were trained on"):
        report(ReportConfig(**{**vars(config), "shards": str(tmp_path / "shards")}))


def test_alignment_by_hand():
    on = torch.zeros(8, len(units.channels), dtype=torch.bool)
    on[:4, 0] = on[:2, 1] = True
    presence = on.float() * 0.8 + 0.1  # 0.9 where asked, 0.1 where not
    usable, counts = torch.zeros(len(units.channels), dtype=torch.bool), torch.ones_like(on)
    usable[:2] = True
    values = channel_alignment(presence, on, counts, usable, least=3)
    assert values[0] == pytest.approx(0.9)
    assert values[1].isnan(), "two faces are fewer than three"
    assert alignment(presence, on, counts, usable, least=3) == pytest.approx(0.9)
    assert alignment(torch.full_like(presence, 0.3), on, counts, usable, least=2) == pytest.approx(0.5)
    assert alignment(presence, on, counts, usable, least=5) is None
    presence[0, 0] = 0.0
    counts[0, 0] = False
    assert alignment(presence, on, counts, usable, least=3) == pytest.approx(0.9), "a trace does not count"
    assert AUSet.from_vector(on[0].float().tolist()).codes == ("1",)
