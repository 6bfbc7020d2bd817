"""ComfyUI nodes of AUFace: thin covers over `auface_diffusers`, one topic a file.

The folder works in three ways: as a part of a clone in ComfyUI's ``custom_nodes`` (the ``__init__.py`` above it passes
the entry point on), copied or linked into ``custom_nodes`` beside ``pip install auface``, and as a plain package.
Importing it costs nothing: ComfyUI's API and the nodes are loaded when ComfyUI asks for them.
"""

WEB_DIRECTORY = "./web"


def comfy_entrypoint():
    """What ComfyUI calls to get the pack: an object that lists the nodes."""
    from comfyui_auface.extension import AUFaceExtension

    return AUFaceExtension()
