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

    import auface_diffusers

    logger.info("auface %s has no ComfyUI nodes yet", auface_diffusers.__version__)
    # ComfyUI reads an empty dict as "no nodes". It would hide a comfy_entrypoint: that one replaces it.
    NODE_CLASS_MAPPINGS: dict[str, type] = {}
