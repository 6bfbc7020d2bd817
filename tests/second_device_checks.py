"""What is checked on a second device: each function here is a test of test_second_device.py.

python second_device_checks.py runs them and prints JSON: by name, what went wrong.
"""

import contextlib
import json
import tempfile
import threading
import traceback
from pathlib import Path

import torch
import toy_adapters
import toy_pipeline
from clay_faces import clay_shards

from auface_diffusers import VQAUFaceEditPipeline
from auface_diffusers.anatomy import HeadModel, control_image, render_faces
from auface_diffusers.anatomy.control import KINDS
from auface_diffusers.facs import AUSet
from auface_diffusers.metrics import aaad
from auface_diffusers.pipelines.adapter_files import write_adapter
from train_lora.data.faces import FacesConfig
from train_lora.loop import LoopConfig, train
from train_lora.memory import estimate
from train_lora.stages.adapter import AdapterConfig, AdapterStage

ASKED = ["1C+2C+5B+26C", "L12C"]
AUS = AUSet.parse("1C+2C+L12C+26C")


def pipes():
    """The same pipeline on the CPU and on the second device."""
    return toy_pipeline.toy_pipeline(), toy_pipeline.toy_pipeline().to("second")


def same(call, atol=1e-5):
    """Whether both pipelines return the same pictures, on the CPU."""
    here, there = (call(pipe) for pipe in pipes())
    assert {one.device.type for one in (there.images, there.codes, there.structure)} == {"cpu"}
    assert torch.equal(here.codes, there.codes)
    torch.testing.assert_close(there.images, here.images, atol=atol, rtol=0)


def check_that_devices_do_not_mix():
    there = torch.zeros(2, device="second")
    assert (there + 1).device.type == "second"
    with contextlib.suppress(RuntimeError):
        _ = there + torch.ones(2)
        raise AssertionError("tensors of two devices were added")
    with contextlib.suppress(TypeError):
        there.numpy()
        raise AssertionError("a tensor of the second device became an array")


def check_faces():
    same(lambda pipe: pipe(ASKED, identity=[7, 1], seed=0, output_type="pt"))


def check_texts_and_scales():
    scales = {"text_guidance_scale": 2.0, "structure_guidance_scale": 2.0, "identity_guidance_scale": 2.0}
    said = {"prompt": "The lip corners are pulled up.", "negative_prompt": "The brows are lowered."}
    same(lambda pipe: pipe(**said, **scales, seed=0, output_type="pt", attributes={"hair": "short black"}))


def check_films():
    same(lambda pipe: pipe.interpolate("0", "12C", 3, identity=3, seed=0, output_type="pt"))


def check_edits():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def edit(pipe):
        estimator = toy_pipeline.toy_estimator().to(pipe.device)
        made = VQAUFaceEditPipeline.from_pipe(pipe, estimator=estimator)
        made.set_progress_bar_config(disable=True)
        return made(image, "9D", seed=0, output_type="pt")

    same(edit)


def check_previews():
    def draw(pipe):
        seen = []
        watched = {"callback_on_step_end_tensor_inputs": ["preview", "structure"]}
        watched["callback_on_step_end"] = lambda one, step, time, tensors: seen.append(one.decode(**_painted(tensors)))
        out = pipe(ASKED, seed=0, output_type="pt", **watched)
        assert torch.equal(seen[-1], out.images)
        return out

    same(draw)


def _painted(tensors):
    return {"codes": tensors["preview"], "structure": tensors["structure"]}


def check_offloading():
    for offload in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        here, there = toy_pipeline.toy_pipeline(), toy_pipeline.toy_pipeline()
        getattr(there, offload)(device="second")
        for _ in range(2):
            one, other = (pipe(ASKED, seed=0, output_type="pt") for pipe in (here, there))
            assert torch.equal(one.images, other.images)
        assert there.transformer.device.type != "second"


def check_half_precision():
    for kind in (torch.float16, torch.bfloat16):
        pipe = toy_pipeline.toy_pipeline().to("second", kind)
        assert pipe(ASKED, seed=0, output_type="pt").images.isfinite().all()


def check_outputs_move():
    seen = toy_pipeline.toy_estimator().to("second")(torch.rand(1, 3, 32, 32, device="second"))
    moved = seen.to("cpu")
    assert type(moved) is type(seen)
    assert {one.device.type for one in moved.values() if isinstance(one, torch.Tensor)} == {"cpu"}
    assert torch.equal(moved.presence, seen.presence.cpu())


def check_estimator_and_score():
    images, model = torch.rand(2, 3, 32, 32), toy_pipeline.toy_estimator().requires_grad_(False)
    here = model(images)
    model.to("second")
    there = model(images.to("second"))
    torch.testing.assert_close(there.presence.cpu(), here.presence)
    assert model.to_aus(there) == model.to_aus(here)
    scores = [AUSet.parse("12C"), AUSet.parse("4C")]
    values = [aaad(one.presence, scores, least=1).aaad for one in (here, there)]
    assert 0 < values[0] == values[1] < 1


def check_heads_and_control_images():
    here, there = HeadModel.from_default(), HeadModel.from_default().to("second")
    for draw in (lambda head: render_faces(head, AUS, [1, 2], 48, 0), *(_control(kind) for kind in KINDS)):
        torch.testing.assert_close(draw(there).cpu(), draw(here), atol=1e-4, rtol=0)


def _control(kind):
    return lambda head: control_image(AUS, kind=kind, size=48, identity=3, head=head)


def check_adapters():
    for kind in ("lora", "dora", "loha", "lokr"):
        here, there = pipes()
        plain = toy_adapters.face(here)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "one.safetensors"
            write_adapter(file, toy_adapters.make_adapter(here, kind, text=("q_proj",)))
            for pipe in (here, there):
                pipe.load_lora_weights(file, "one")
        assert not torch.equal(toy_adapters.face(here), plain)
        torch.testing.assert_close(toy_adapters.face(there), toy_adapters.face(here), atol=1e-4, rtol=0)
        there.adapter_deltas()
        there.fuse_lora()
        torch.testing.assert_close(toy_adapters.face(there), toy_adapters.face(here), atol=1e-2, rtol=0)
        there.unfuse_lora()
        there.unload_lora_weights()
        torch.testing.assert_close(toy_adapters.face(there), plain, atol=1e-4, rtol=0)


LOOP = LoopConfig(steps=4, batch_size=4, learning_rate=1e-3, precision="no")


def _adapter_stage(folder, base, size):
    data = FacesConfig(str(clay_shards(Path(folder) / "clay", 12, size)))
    return AdapterStage(AdapterConfig(out=folder, train=LOOP, data=data, base=str(base), scores=0))


def check_training_reads_ahead():
    threads = set()
    with tempfile.TemporaryDirectory() as folder:
        stage = _adapter_stage(folder, toy_pipeline.save_weights(Path(folder) / "weights"), 64)
        read = type(stage.source).__getitems__

        class Watched(type(stage.source)):
            def __getitems__(self, numbers):
                threads.add(threading.current_thread().name.split("_")[0])
                return read(self, numbers)

        stage.source = Watched(stage.source.source, stage.source.numbers)
        assert train(stage, LOOP, Path(folder) / "run", {})["finished"]
    assert threads == {"MainThread", "reader"}


def check_memory_of_a_run():
    """Of the embedded model: what kernels of the CPU keep for themselves is much beside a toy."""
    with tempfile.TemporaryDirectory() as folder:
        stage, loop = _adapter_stage(folder, "", 128), LOOP
        here, there = (estimate(stage, loop, device=device) for device in ("cpu", "second"))
    assert 0.8 < there.sample / here.sample < 1.2, (there.sample, here.sample)
    assert there.fits
    assert {one.device.type for one in stage.pipe.components.values() if isinstance(one, torch.nn.Module)} == {"cpu"}


CHECKS = {name.removeprefix("check_"): one for name, one in list(globals().items()) if name.startswith("check_")}


def main():
    import second_device  # noqa: F401 - adds the device to this process

    wrong = {}
    for name, check in CHECKS.items():
        try:
            check()
            wrong[name] = ""
        except Exception:
            wrong[name] = traceback.format_exc(limit=-8)[:4000]
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
