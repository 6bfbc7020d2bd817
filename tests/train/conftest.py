"""Small faces for the tests of training."""

import pytest

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
