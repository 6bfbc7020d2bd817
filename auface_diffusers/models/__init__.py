"""The networks: diffusers models with ``from_pretrained`` and ``save_pretrained``."""

from auface_diffusers.models.au_estimator import AUEstimator, AUEstimatorOutput
from auface_diffusers.models.face_tokenizer import FaceTokenizer, FaceTokenizerOutput
from auface_diffusers.models.face_transformer import FaceTransformer
from auface_diffusers.models.structure_encoder import StructureEncoder, StructureEncoderOutput
from auface_diffusers.models.text_alignment import TextAlignment, TextAlignmentOutput

__all__ = [
    "AUEstimator",
    "AUEstimatorOutput",
    "FaceTokenizer",
    "FaceTokenizerOutput",
    "FaceTransformer",
    "StructureEncoder",
    "StructureEncoderOutput",
    "TextAlignment",
    "TextAlignmentOutput",
]
