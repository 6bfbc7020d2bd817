"""The report of a generator: what it writes, what it refuses, and that levels are ranked as they are read."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from auface_diffusers.metrics.suite import load_suite
from train_lora.data.build_suite import build
from train_lora.data.sample_aus import held_out
from train_lora.data.shards import write_shard
from train_lora.report import ReportConfig, report

_spec = importlib.util.spec_from_file_location("toy_pipeline", Path(__file__).parents[1] / "toy_pipeline.py")
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)


@pytest.fixture
def config(tmp_path):
    place = tmp_path / "weights"
    toy.save_weights(place)
    suite = tmp_path / "few.jsonl"
    suite.write_text("".join(item.line() + "\n" for item in load_suite("standard").items[::40]))
    return ReportConfig(
        out=str(tmp_path / "report"),
        model=str(place / "default"),
        estimator=str(place / "evaluation_estimator"),
        suite=str(suite),
        images=1,
        gate=0,
        steps=1,
    )


def test_a_report_is_whole(config, monkeypatch):
    monkeypatch.setattr("train_lora.report.LEVEL_CODES", ("12", "46"))
    result = report(config)
    out = Path(config.out)
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(result, allow_nan=False))
    assert result["n_items"] == result["n_images"] == 12
    assert set(result["level_response"]) == {"12", "46"}
    assert result["aaad"] is None, "twelve images are too few"
    page = (out / "report.md").read_text()
    assert "| all | 12 | n/a | n/a |" in page
    assert "Level response: Spearman >= 0.8 for" in page
    assert Image.open(out / "samples.png").size == (8 * 64, 2 * 64)


def test_the_suite_is_made_by_the_code_that_is_there():
    made = "".join(item.line() + "\n" for item in build())
    suite = load_suite("standard")
    assert made == "".join(item.line() + "\n" for item in suite.items)
    assert all(item.new == held_out(item.aus) for item in suite.items)


def test_a_score_that_was_trained_is_refused(config, tmp_path):
    aus = load_suite(config.suite).items[5].aus
    (tmp_path / "shards").mkdir()
    label = json.dumps({"aus": aus.format()}).encode()
    write_shard(tmp_path / "shards" / "faces-000000.tar", [("000000000", {"json": label})])
    with pytest.raises(ValueError, match="1 scores were trained on"):
        report(ReportConfig(**{**vars(config), "shards": str(tmp_path / "shards")}))
