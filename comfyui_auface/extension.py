"""The list of nodes that ComfyUI loads."""

from comfy_api.latest import ComfyExtension, io

from comfyui_auface.parts import PARTS, load_nodes


class AUFaceExtension(ComfyExtension):
    """The pack, as ComfyUI wants it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The classes of every node that can be loaded."""
        return load_nodes(PARTS)
