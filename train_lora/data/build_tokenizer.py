"""Train the tokenizer of the text encoder: ``python -m train_lora.data.build_tokenizer OUT [--size 2048]``.

Byte-level BPE on made texts: nothing is unknown to it, and phrases of the processor take few tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from auface_diffusers.facs import describe
from train_lora.data.alignment_pairs import row_score
from train_lora.data.sample_aus import sample_aus
from train_lora.data.wordings import wordings

MAX_LENGTH = 192
"""Tokens of a text, bos and eos included: more than 99.9 % of anatomical descriptions fit."""
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
"""Special tokens in the order of their ids 0, 1, 2, 3. Nothing is ever unknown; libraries ask for a token."""


def training_texts(seed: int, count: int) -> Iterator[str]:
    """Texts of random scores, every kind."""
    for number in range(count):
        yield wordings(random.Random(f"tokenizer {seed} {number}"), row_score(seed, number))


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer that lower-cases, joins blanks, and puts bos and eos around a text.

    Raises:
        ValueError: ``size`` has no room for the bytes and special tokens.
    """
    smallest = 256 + len(SPECIAL)
    if size < smallest:
        raise ValueError(f"size {size}: at least {smallest} are needed for all bytes and special tokens")
    core = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bos, eos = SPECIAL["bos_token"], SPECIAL["eos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(token, core.token_to_id(token)) for token in (bos, eos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=MAX_LENGTH, clean_up_tokenization_spaces=False, **SPECIAL
    )


def lengths(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> dict[str, Any]:
    """Tokens of anatomical descriptions, canonical and varied in turn, bos and eos included."""
    rng = random.Random(seed)
    texts = [describe(sample_aus(rng)[1], seed=number if number % 2 else None).text for number in range(count)]
    found = sorted(len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"])
    at = {f"percentile_{share}": found[int(share / 100 * (count - 1))] for share in (50, 99, 99.9)}
    fit = sum(length <= MAX_LENGTH for length in found) / count
    return {"mean": round(sum(found) / count, 1), **at, "max": found[-1], "limit": MAX_LENGTH, "fit": fit}


def main() -> None:
    """Train on seeded texts, save, report."""
    parser = argparse.ArgumentParser(prog="python -m train_lora.data.build_tokenizer", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--size", type=int, default=2048, help="number of tokens")
    parser.add_argument("--texts", type=int, default=40_000, help="texts to train on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(training_texts(arguments.seed, arguments.texts), arguments.size)
    tokenizer.save_pretrained(arguments.out)
    report = {"tokens": len(tokenizer), "anatomical": lengths(tokenizer, 20_000, arguments.seed + 1)}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
