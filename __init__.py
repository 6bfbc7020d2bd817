"""Lets ComfyUI load a clone in custom_nodes; `pip install` does not use this file."""

# ComfyUI loads this folder as a package. pytest imports this file by itself and must not run the body.
if __package__:
    import importlib.util
    import logging
    import sys
    from pathlib import Path

    logger = logging.getLogger("auface")
    if importlib.util.find_spec("auface_diffusers") is None:
        folder = str(Path(__file__).parent)
        sys.path.append(folder)
        logger.info("auface is not installed: added %s to sys.path", folder)

    from comfyui_auface import comfy_entrypoint

    # No NODE_CLASS_MAPPINGS beside it: ComfyUI would take these and never call the entry point.
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
    WEB_DIRECTORY = "./comfyui_auface/web"
