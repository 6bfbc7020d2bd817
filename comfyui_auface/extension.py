"""The list of nodes that ComfyUI loads."""

import logging

from comfy_api.latest import ComfyExtension, io

from comfyui_auface.parts import PARTS, load_nodes, what_to_do

logger = logging.getLogger("auface")


class AUFaceExtension(ComfyExtension):
    """The pack, as ComfyUI wants it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The classes of every node that can be loaded."""
        _add_preview()  # not in on_load, which ComfyUI 0.3.64 does not call
        return load_nodes(PARTS)


def _add_preview() -> None:
    try:
        from comfyui_auface.preview import add_route

        add_route()
    except Exception as error:  # the picture beside the sliders is an extra: the nodes come without it
        logger.warning("AUFace: no preview beside the sliders: %s", what_to_do(error))
