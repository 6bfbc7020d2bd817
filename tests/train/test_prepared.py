import pickle

import pytest
import torch
from clay_faces import clay_shards
from PIL import Image

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.models import FaceTokenizer
from train_lora.data import prepared
from train_lora.data.faces import FacesConfig
from train_lora.data.prepared import PreparedSource, pack, unpack

SIZE = 64


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return FaceTokenizer(image_size=SIZE, channels=(8, 16, 16), encoder_blocks=1, decoder_blocks=1)


@pytest.fixture(scope="module")
def faces():
    return FacesConfig(faces=4, size=SIZE).open()


def test_what_is_kept_is_what_is_made(tokenizer, faces, tmp_path):
    plain = PreparedSource(faces, tokenizer, None).__getitems__([0, 2])
    kept = PreparedSource(faces, tokenizer, tmp_path)
    first, again = kept.__getitems__([0, 2]), kept.__getitems__([2, 0])
    for batch in (first, PreparedSource(faces, tokenizer, tmp_path).__getitems__([0, 2])):
        assert torch.equal(batch.codes, plain.codes)
        assert torch.equal(batch.structure, plain.structure)
    assert torch.equal(again.codes, plain.codes.flip(0))
    assert kept.done.tolist() == [1, 0, 1, 0]
    assert plain.structure.shape == (2, len(STRUCTURE_CHANNELS), SIZE, SIZE)


def test_pictures_come_along_if_asked_for(tokenizer, faces, tmp_path):
    plain, shown = (PreparedSource(faces, tokenizer, tmp_path, with_pictures=asked) for asked in (False, True))
    without, first, again = (source.__getitems__([1, 3]) for source in (plain, shown, shown))
    for batch in (first, again):
        assert torch.equal(batch.images, faces.__getitems__([1, 3]).images)
        assert batch.parts.shape == (2, SIZE, SIZE)
        assert torch.equal(batch.codes, without.codes)
    assert not hasattr(without, "images")


def test_pictures_of_kept_faces_are_left_closed(tokenizer, monkeypatch, tmp_path):
    source = PreparedSource(FacesConfig(str(clay_shards(tmp_path, 3, SIZE))).open(), tokenizer, tmp_path)
    made = source.__getitems__([2, 0])
    monkeypatch.setattr(Image, "open", None)
    kept = source.__getitems__([2, 0])
    for name, value in vars(made).items():
        assert torch.equal(getattr(kept, name), value) if isinstance(value, torch.Tensor) else value == kept.labels
    with pytest.raises(TypeError, match="NoneType"):
        source.__getitems__([1])


def test_workers_write_to_the_same_files(tokenizer, faces, tmp_path):
    source = PreparedSource(faces, tokenizer, tmp_path)
    worker = pickle.loads(pickle.dumps(source))
    worker.__getitems__([3])
    assert source.done.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("computed", "folders"), [(True, 3), (False, 2)])
def test_another_encoder_has_other_files(tokenizer, faces, tmp_path, monkeypatch, computed, folders):
    """And codes in half precision, unless the CPU would emulate it."""
    monkeypatch.setattr(prepared, "cpu_has_bf16", lambda: computed)
    PreparedSource(faces, tokenizer, tmp_path)
    torch.manual_seed(1)
    other = FaceTokenizer(image_size=SIZE, channels=(8, 16, 16), encoder_blocks=1, decoder_blocks=1)
    PreparedSource(faces, other, tmp_path)
    assert PreparedSource(faces, other, tmp_path, half=True).half == computed
    assert len(list(tmp_path.iterdir())) == folders


def test_packing_keeps_the_parts_and_a_byte_of_the_surface(tokenizer, faces):
    batch = PreparedSource(faces, tokenizer, None).__getitems__([1])
    assert torch.equal(unpack(pack(batch.structure)), batch.structure)
    surface, parts = batch.structure[:, [0, 1, 2, 3, -3, -2, -1]], batch.structure[:, 4:-4]
    assert surface.abs().max() <= 1
    assert set(parts.unique().tolist()) == {0.0, 1.0}
