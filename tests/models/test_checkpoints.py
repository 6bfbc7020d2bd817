"""Every model reads and writes safetensors only, and says what is wrong with a file."""

import pytest
import torch

from auface_diffusers.models import AUEstimator, FaceTokenizer, StructureEncoder
from auface_diffusers.models.checkpoints import WEIGHTS


def tokenizer():
    return FaceTokenizer(image_size=32, channels=(8, 8), encoder_blocks=1, decoder_blocks=1)


MODELS = {
    "tokenizer": tokenizer,
    "structure": lambda: StructureEncoder(image_size=32, width=16, embedding_dim=16),
    "estimator": lambda: AUEstimator(image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_a_pickle_is_neither_read_nor_written(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / f"{WEIGHTS}.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / f"{WEIGHTS}.bin")
    with pytest.raises(ValueError, match=f"{WEIGHTS}.bin is a pickle"):
        type(model).from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_safetensors=False"):
        type(model).from_pretrained(tmp_path, use_safetensors=False)
    with pytest.raises(ValueError, match="safe_serialization=False"):
        model.save_pretrained(tmp_path / "other", safe_serialization=False)
    assert not (tmp_path / "other").exists()


def test_damaged_and_foreign_weights_are_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / f"{WEIGHTS}.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        type(model).from_pretrained(tmp_path)
    other = MODELS["structure" if isinstance(model, FaceTokenizer) else "tokenizer"]()
    other.save_pretrained(tmp_path / "other")
    file.write_bytes((tmp_path / "other" / file.name).read_bytes())
    with pytest.raises(ValueError, match=f"holds no {type(model).__name__} of its config.json: lacks"):
        type(model).from_pretrained(tmp_path)


def test_a_path_that_is_not_there_asks_no_hub(tmp_path):
    for path in (tmp_path / "none", "./none", "~/none"):
        with pytest.raises(ValueError, match="none is no folder"):
            FaceTokenizer.from_pretrained(path)


def test_a_subfolder_is_looked_at(tmp_path):
    tokenizer().save_pretrained(tmp_path / "part")
    assert FaceTokenizer.from_pretrained(tmp_path, subfolder="part").config["image_size"] == 32
    (tmp_path / "part" / f"{WEIGHTS}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        FaceTokenizer.from_pretrained(tmp_path, subfolder="part")
