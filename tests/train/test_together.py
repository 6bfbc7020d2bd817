"""What processes share: held-out batches, the end of an epoch, files that two begin at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from auface_diffusers.models import FaceTokenizer
from train_lora.data.faces import FacesConfig
from train_lora.data.prepared import PreparedSource
from train_lora.loop import LoopConfig
from train_lora.order import Numbers
from train_lora.together import alone, shared


@pytest.mark.parametrize("look", [alone, shared])
def test_every_held_out_sample_is_looked_at_once_and_in_order(look):
    assert look(11, 4, list) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert look(0, 4, list) == []


@pytest.mark.parametrize(("length", "batch", "processes"), [(11, 4, 2), (13, 6, 3), (9, 8, 4)])
def test_processes_read_every_sample_once_an_epoch_where_batches_straddle_its_end(length, batch, processes):
    config = LoopConfig(steps=5 * length, batch_size=batch)
    each = [[*Numbers(config, length, rank, processes, 0)] for rank in range(processes)]
    read = [number for step in zip(*each, strict=True) for some in step for number in some]
    epochs = [read[begin : begin + length] for begin in range(0, len(read) - length + 1, length)]
    assert len(epochs) == 5 * batch
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)


def test_codes_that_many_begin_to_keep_at_once_are_in_one_place(tmp_path):
    torch.manual_seed(0)
    tokenizer = FaceTokenizer(image_size=64, channels=(8, 16, 16), encoder_blocks=1, decoder_blocks=1)
    faces = FacesConfig(faces=4, size=64).open()
    with ThreadPoolExecutor(8) as pool:
        sources = [*pool.map(lambda _: PreparedSource(faces, tokenizer, tmp_path), range(8))]
    sources[0].__getitems__([2])
    assert all(source.done.tolist() == [0, 0, 1, 0] for source in sources)
    assert len([*tmp_path.iterdir()]) == 1
