"""Reading ahead of a GPU: the same run, and what goes wrong arrives."""

import gc
import json
import threading
import time

import pytest
from toy_stage import ToySource, ToyStage, run_toy

from train_lora import loop, reading

pytestmark = pytest.mark.usefixtures("one_thread")


class WatchedSource(ToySource):
    """Says which thread reads, and fails at a reading."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.threads, self.fail_at = [], fail_at

    def __getitems__(self, numbers):
        if len(self.threads) == self.fail_at:
            raise ValueError("face 3 is damaged")
        self.threads.append(name_of(threading.current_thread()))
        return super().__getitems__(numbers)


def name_of(thread):
    return thread.name.split("_")[0]


@pytest.fixture
def read_ahead(monkeypatch):
    """A call after which runs read as where a GPU trains."""

    def switch():
        monkeypatch.setattr(loop, "batches", lambda *given: reading.ahead(reading.batches(*given)))

    return switch


def said(out):
    """The log without its speed, and the weights."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steady = [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]
    return steady, (out / "model" / "toy.safetensors").read_bytes()


def test_reading_ahead_changes_no_loss(tmp_path, read_ahead):
    run_toy(tmp_path / "plain")
    read_ahead()
    source = WatchedSource()
    run_toy(tmp_path / "ahead", ToyStage(source=source))
    assert said(tmp_path / "ahead") == said(tmp_path / "plain")
    assert set(source.threads[1:6]) == {"reader"}
    assert source.threads[0] == "MainThread"  # models move in the first step
    assert "reader" not in map(name_of, threading.enumerate())


def test_it_begins_after_the_first_step():
    made = []
    batches = reading.ahead(made.append(number) or number for number in range(3))
    assert next(batches) == 0
    time.sleep(0.05)
    assert made == [0]
    assert list(batches) == [1, 2]


def test_what_cannot_be_read_stops_the_run(tmp_path, read_ahead):
    read_ahead()
    with pytest.raises(ValueError, match="face 3 is damaged"):
        run_toy(tmp_path, ToyStage(source=WatchedSource(fail_at=5)))
    assert list((tmp_path / "checkpoints").iterdir())


def test_garbage_is_collected_as_before_after_a_run(tmp_path):
    run_toy(tmp_path)
    assert gc.get_freeze_count() == 0
