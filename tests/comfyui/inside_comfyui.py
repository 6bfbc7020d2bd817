"""What the models do under ComfyUI's memory manager, in a process of ComfyUI without its server; prints JSON.

python inside_comfyui.py CHECKOUT
"""

import json
import sys

checkout, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, checkout)
sys.argv[1:] = ["--cpu"]

import comfy.options  # noqa: E402 - ComfyUI is found by the line above

comfy.options.enable_args_parsing()

import comfy.model_management as mm  # noqa: E402 - reads the command line when it is imported
import torch  # noqa: E402

from comfyui_auface import generating, models  # noqa: E402
from comfyui_auface.expression import Expression  # noqa: E402

WEIGHT = "transformer.blocks.0.attention.to_out.weight"


@torch.inference_mode()
def main():
    model = models.load_model("embedded", None, "fp32", "auto")
    delta = torch.randn(model.patcher.model.state_dict()[WEIGHT].shape, generator=torch.Generator().manual_seed(0))
    stronger = model.patched({WEIGHT: delta}, 0.5, "noise")
    both = stronger.patched({WEIGHT: delta}, -0.5, "noise taken away")

    def codes(one):
        wish = generating.Wish(Expression.parse("6C+12D"), "", None, 7, {}, "same scene", 1, 2, 1.0, 0)
        return generating.draw(models.ready(one, 1), wish).codes

    plain, patched, again = codes(model), codes(stronger), codes(model)
    loaded = [one for one in mm.current_loaded_models if one.model is model.patcher]
    try:
        model.patched({"transformer.gone": delta}, 1.0, "a style")
        said = ""
    except ValueError as error:
        said = str(error)
    part = model.patcher.partially_unload(torch.device("cpu"), 1)
    model.patcher.load(torch.device("cpu"), lowvram_model_memory=1)  # as when memory is short
    print(
        json.dumps(
            {
                "patched differs": not torch.equal(plain, patched),
                "the first is as before": torch.equal(plain, again),
                "noise taken away": torch.equal(codes(both), plain),
                "notes": [list(one.notes) for one in (model, stronger, both)],
                "managed": len(loaded),
                "said": said,
                "unloaded in part": part,
                "loaded of all": model.patcher.loaded_size() / model.patcher.model_size(),
                "loads in part": model.patcher.model.model_lowvram,
            }
        )
    )


if __name__ == "__main__":
    main()
