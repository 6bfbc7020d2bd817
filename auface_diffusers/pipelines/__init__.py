"""The pipelines: faces from action units or text, edits of faces, and sequences."""

from auface_diffusers.pipelines.animation import save_animation
from auface_diffusers.pipelines.output import VQAUFacePipelineOutput
from auface_diffusers.pipelines.pipeline_auface import VQAUFacePipeline
from auface_diffusers.pipelines.pipeline_auface_edit import VQAUFaceEditPipeline

__all__ = ["VQAUFaceEditPipeline", "VQAUFacePipeline", "VQAUFacePipelineOutput", "save_animation"]
