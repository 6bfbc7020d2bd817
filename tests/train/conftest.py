"""Small faces for the tests of training."""

import pytest
import torch

from train_lora.data.synth import SynthConfig, synth


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """The configuration of two shards of 16 faces of 64 pixels, which lie in its ``out``."""
    out = tmp_path_factory.mktemp("faces") / "shards"
    config = SynthConfig(
        out=str(out), shards=2, per_shard=16, size=64, framing="face", people=50, image_format="png", texts=1
    )
    synth(config)
    return config


@pytest.fixture
def one_thread():
    """As in the runs of other processes: sums are taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
