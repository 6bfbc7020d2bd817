"""A pack that makes ComfyUI, started with --cpu, believe in a GPU: the device of tests/second_device.py.

As with --gpu-only: models are loaded there and what nodes hand on lies there.
"""

import comfy.model_management as mm
import torch
from comfy.cli_args import args

from . import second_device

DEVICE = torch.device(second_device.NAME, 0)
MEMORY = 16 * 2**30
_free, _total = mm.get_free_memory, mm.get_total_memory


def _of(real):
    def memory(dev=None, *both, **named):
        if dev is None or torch.device(dev).type == second_device.NAME:
            return (MEMORY, MEMORY) if any(both) or any(named.values()) else MEMORY
        return real(dev, *both, **named)

    return memory


args.cpu, args.gpu_only = False, True
mm.cpu_state, mm.vram_state = mm.CPUState.GPU, mm.VRAMState.HIGH_VRAM
mm.get_torch_device = mm.intermediate_device = lambda: DEVICE
mm.get_free_memory, mm.get_total_memory = _of(_free), _of(_total)
mm.should_use_fp16 = mm.should_use_bf16 = lambda *_, **__: False
mm.soft_empty_cache = lambda *_, **__: None
# tensors of devices that Python makes up cannot be inference tensors
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()


class WhichDevice:
    """Says where pictures lie when a node hands them on."""

    RETURN_TYPES = ("STRING",)
    CATEGORY = "tests"
    FUNCTION = "tell"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def tell(self, images):
        return (str(images.device),)


NODE_CLASS_MAPPINGS = {"WhichDevice": WhichDevice}
