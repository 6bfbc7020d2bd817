"""Toy-size pipelines of the real classes, with random weights."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from auface_diffusers import VQAUFaceEditPipeline, VQAUFacePipeline
from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.facs import AUSet, describe
from auface_diffusers.models import AUEstimator, FaceTokenizer, FaceTransformer, TextAlignment
from auface_diffusers.schedulers import MaskedTokenScheduler

SIZE = 64
SPECIAL = ["<pad>", "<unk>", "<bos>", "<eos>"]


def words():
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    texts = [describe(AUSet.parse(text)).text for text in ("1C+2C+5B+26C", "12D+6C", "0", "4D+L9B", "15C+17B")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    names = ("pad_token", "unk_token", "bos_token", "eos_token")
    return PreTrainedTokenizerFast(tokenizer_object=core, **dict(zip(names, SPECIAL, strict=True)))


def components(**transformer):
    torch.manual_seed(0)
    tokenizer = words()
    faces = FaceTokenizer(
        image_size=SIZE,
        channels=(8, 16, 16),
        levels=(4, 4),
        code_groups=2,
        encoder_blocks=1,
        decoder_blocks=1,
        structure_channels=len(STRUCTURE_CHANNELS),
    )
    with torch.no_grad():  # random weights otherwise paint grey
        for out in faces.guide.outs:
            torch.nn.init.normal_(out.weight, std=0.3)
        faces.decoder[-1][-1].weight.mul_(8)
        faces.encoder[-1][-1].weight.mul_(8)
    text = TextAlignment(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        max_length=96,
        projection_dim=32,
        reader_dim=64,
    )
    sizes = {"width": 32, "layers": 2, "heads": 2, "code_dim": 16, "text_dim": 32, "structure_width": 32}
    drawer = FaceTransformer(codebook_size=16, grid_size=8, code_groups=2, merge=2, image_size=SIZE, **sizes)
    with torch.no_grad():  # what conditions do shows at once
        drawer.to_codes.weight.mul_(4)
        for part in (drawer.from_structure, drawer.from_text, drawer.from_embedding, drawer.modulation):
            torch.nn.init.normal_(part.weight, std=0.3)
    return {
        "tokenizer": tokenizer,
        "text_alignment": text.eval(),
        "transformer": drawer.eval(),
        "face_tokenizer": faces.eval(),
        "scheduler": MaskedTokenScheduler(mask_token_id=16, choice_temperature=1.0),
    }


@pytest.fixture
def pipe():
    made = VQAUFacePipeline(**components(), guidance_scale=2.0, num_inference_steps=3)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def edit(pipe):
    made = VQAUFaceEditPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def estimator():
    torch.manual_seed(1)
    return AUEstimator("conv", image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)).eval()
