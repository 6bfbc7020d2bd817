"""`StoredPipeline`: the components of the pipelines, and how they are loaded."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines import pipeline_utils
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerFast

from auface_diffusers.anatomy import Camera
from auface_diffusers.models.attention import attends
from auface_diffusers.models.checkpoints import is_folder, refuse_pickles
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.face_transformer import FaceTransformer
from auface_diffusers.models.text_alignment import TextAlignment
from auface_diffusers.pipelines.adapters import AdaptablePipeline
from auface_diffusers.schedulers import MaskedTokenScheduler

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_WEIGHTS = Path(__file__).parent.parent / "weights" / "default"
INDEX = "model_index.json"
DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "token", "revision")
"""Options of `from_pretrained` about a hub id."""
FILES = ("*.json", "*.safetensors", "*.txt")
"""What is downloaded of a hub id."""
DTYPE = "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"
"""What this diffusers calls the argument; ours takes both."""


class StoredPipeline(AdaptablePipeline):
    """Components that belong together, loaded from safetensors only; the steps stand in `steps`.

    Args:
        tokenizer: splits texts. text_alignment: encodes and reads them. transformer: draws codes.
        face_tokenizer: codes to pictures and back. scheduler: the order in which codes are revealed.
        framing: of the faces that the transformer was trained on, see ``anatomy.camera.FRAMINGS``.
        guidance_scale, num_inference_steps: defaults of the calls.

    Raises:
        ValueError: components that were not made for each other.
    """

    model_cpu_offload_seq: Any = "text_alignment->transformer->face_tokenizer"
    tokenizer: PreTrainedTokenizerFast
    text_alignment: Any  # a TextAlignment, which mypy cannot call: diffusers hides its base class
    transformer: FaceTransformer
    face_tokenizer: FaceTokenizer
    scheduler: MaskedTokenScheduler

    def _register(self, framing: str, guidance_scale: float, num_inference_steps: int, **components: object) -> None:
        """What every constructor does."""
        Camera.framed(framing)
        self.register_modules(**components)
        if isinstance(self.tokenizer, PreTrainedTokenizerFast):  # transformers 5 has a name for it that 4 lacks
            self.register_to_config(tokenizer=("transformers", "PreTrainedTokenizerFast"))
        self.register_to_config(
            framing=framing, guidance_scale=guidance_scale, num_inference_steps=num_inference_steps
        )
        self._interrupt = False
        self._check_components()

    def _check_components(self) -> None:
        text, faces, drawer = self.text_alignment.config, self.face_tokenizer, self.transformer.config
        for name, ours, other, theirs in (
            ("codebook_size", drawer["codebook_size"], "face_tokenizer", faces.codebook_size),
            ("codebook_size", drawer["codebook_size"], "scheduler", self.scheduler.config["mask_token_id"]),
            ("grid_size", drawer["grid_size"], "face_tokenizer", faces.grid_size),
            ("code_groups", drawer["code_groups"], "face_tokenizer", faces.code_shape[2]),
            ("image_size", drawer["image_size"], "face_tokenizer", faces.config["image_size"]),
            ("text_dim", drawer["text_dim"], "text_alignment's words", text["hidden_size"]),
            ("text_dim", drawer["text_dim"], "text_alignment's embedding", text["projection_dim"]),
        ):
            if ours != theirs:
                raise ValueError(
                    f"the transformer has {name} {ours} and {other} {theirs}: they do not belong together"
                )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:  # noqa: ANN401 - what diffusers takes
        """Load a saved pipeline, as diffusers does, from safetensors only.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id, which is downloaded.
            **kwargs: see ``DiffusionPipeline.from_pretrained``: ``torch_dtype``, ``variant``, components, ...

        Raises:
            ValueError: a file is missing, damaged, a pickle, or of another model; names it.
        """
        refuse_pickles("use_safetensors", kwargs.pop("use_safetensors", None))
        for name in {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs[DTYPE] = kwargs.pop(name)
        folder = os.fspath(pretrained_model_name_or_path)
        options = {name: kwargs.pop(name) for name in DOWNLOAD if name in kwargs}
        if not is_folder(pretrained_model_name_or_path):
            # not diffusers' download, which takes the components' modules for files of the repository
            folder = snapshot_download(folder, allow_patterns=list(FILES), **options)
        cls._check_folder(Path(folder), kwargs)
        loaded: Self = super().from_pretrained(folder, use_safetensors=True, **kwargs)
        return loaded

    @classmethod
    def from_default(cls, **kwargs: Any) -> Self:  # noqa: ANN401 - what diffusers takes
        """Load the weights that come with the package, in float32 unless ``torch_dtype`` says otherwise.

        Raises:
            FileNotFoundError: they are not there.
        """
        if not (DEFAULT_WEIGHTS / INDEX).is_file():
            raise FileNotFoundError(
                f"the embedded weights are missing: {DEFAULT_WEIGHTS} has no {INDEX}; reinstall the package, or load "
                f"others with {cls.__name__}.from_pretrained(folder)"
            )
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs[DTYPE] = torch.float32
        return cls.from_pretrained(DEFAULT_WEIGHTS, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:  # noqa: ANN401 - what diffusers takes
        """The same components, trigger words and person in this pipeline; nothing is copied. Unlike in diffusers,
        components keep their dtype.

        Args:
            pipeline: has the components and the defaults.
            **kwargs: arguments of the constructor, in place of those.
        """
        expected, optional = cls._get_signature_keys(cls)
        given = {**pipeline.config, **pipeline.components}
        made: Self = cls(**{name: given[name] for name in {*expected, *optional} & given.keys()} | kwargs)
        made.register_to_config(_name_or_path=pipeline.config.get("_name_or_path"))
        made.trigger_words = getattr(pipeline, "trigger_words", ())
        made.person = getattr(pipeline, "person", None)
        return made

    @classmethod
    def _check_folder(cls, folder: Path, given: Mapping[str, Any]) -> None:
        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder} is no saved pipeline: {INDEX} is missing; save one with pipe.save_pretrained")
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for name in cls._model_classes():
            if name not in given and index.get(name, (None,))[0] is not None and not (folder / name).is_dir():
                raise ValueError(f"{folder / name} is missing: copy the whole folder again")

    @classmethod
    def _model_classes(cls) -> dict[str, Any]:
        return {"text_alignment": TextAlignment, "transformer": FaceTransformer, "face_tokenizer": FaceTokenizer}

    def set_attention(self, backend: str = "auto") -> str:
        """Choose how the transformer attends: "auto", "native", "xformers", or another name that diffusers knows.

        "auto" is xformers where it is installed, the transformer on CUDA, and both fit; else native. Returns the
        choice.

        Raises:
            ValueError: an unknown name, or xformers without CUDA or not installed.
        """
        on_cuda = self.transformer.device.type == "cuda"
        installed = importlib.util.find_spec("xformers") is not None
        if backend == "auto":
            like, width = self.transformer.to_width.weight, self.transformer.head_width
            backend = "xformers" if on_cuda and installed and attends("xformers", like, width) else "native"
        elif backend == "xformers" and not on_cuda:
            raise ValueError(
                f"xformers needs CUDA, the transformer is on {self.transformer.device}: move it with "
                "pipe.to('cuda'), or use 'auto'"
            )
        elif backend == "xformers" and not installed:
            raise ValueError("xformers is not installed: pip install xformers, or use 'auto'")
        self._quietly_set(backend)
        return backend

    def _quietly_set(self, backend: str) -> None:
        """``set_attention_backend``, without its warning that choosing one is experimental."""
        level = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            self.transformer.set_attention_backend(backend)
        finally:
            logging.set_verbosity(level)
