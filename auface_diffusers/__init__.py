"""AUFace: FACS Action Units to anatomically consistent text and faces.

Importing this package loads nothing heavy: `auface_diffusers.facs` works without torch. The pipelines are loaded when
they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auface_diffusers.pipelines import VQAUFaceEditPipeline, VQAUFacePipeline

__version__ = "0.1.0"
__all__ = ["VQAUFaceEditPipeline", "VQAUFacePipeline"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from auface_diffusers import pipelines  # imports torch and diffusers

        return getattr(pipelines, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
