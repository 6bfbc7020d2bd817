"""Training of adapters at toy size: what is trained and saved, what a run leaves, kills, options, memory."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_pipeline
from clay_faces import clay_shards
from PIL import Image
from safetensors.torch import load_file

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.models.adapters import adapter_parameters, base_hash
from auface_diffusers.pipelines.adapter_files import read_adapter
from train_lora import memory
from train_lora.__main__ import main
from train_lora.adapters import NAME, AdapterSpec
from train_lora.data.faces import FacesConfig
from train_lora.data.fitted import FittedSource
from train_lora.data.prepare import prepare
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.quality import QualityConfig
from train_lora.data.shards import read_shard, shard_name, write_shard
from train_lora.data.split import SplitConfig
from train_lora.loop import LoopConfig, Step, train
from train_lora.memory import GB, Memory, check, estimate, step_bytes
from train_lora.stages.adapter import AdapterConfig, AdapterStage

LOOP = LoopConfig(
    steps=6, batch_size=4, learning_rate=0.02, warmup=1, ema=0.5, log_every=1, validate_every=6, save_every=2
)
RUN = """
out = "{out}"
base = "{base}"
scores = 0

[data]
shards = "{shards}"

[adapter]
rank = 2
alpha = 2.0
dropout = 0.2

[train]
steps = 6
batch_size = 4
learning_rate = 0.01
warmup = 1
log_every = 1
validate_every = 6
save_every = 2
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder of a toy pipeline with both estimators beside it."""
    return toy_pipeline.save_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def clay(tmp_path_factory):
    """Shards of 12 clay faces."""
    return clay_shards(tmp_path_factory.mktemp("clay"), 12, 64)


def config(tmp_path, base, clay, **values):
    given = {
        "out": str(tmp_path / "run"),
        "train": LOOP,
        "data": FacesConfig(str(clay)),
        "base": str(base),
        "scores": 0,
    }
    return AdapterConfig(**{**given, **values})


def run(settings):
    return train(AdapterStage(settings), settings.train, Path(settings.out), dataclasses.asdict(settings))


def face(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe("12D+1C", identity=3, seed=5, num_inference_steps=2, output_type="pt").images


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_an_adapter_that_the_pipeline_loads(tmp_path, base, clay):
    settings = config(
        tmp_path, base, clay, adapter=AdapterSpec(rank=2, trigger="clay"), held_out=2, scores=8, report=8
    )
    report = run(settings)
    out = tmp_path / "run"
    assert report["finished"]
    assert {"loss", "drift"} <= report["validation"].keys()
    found = read_adapter(out / "model" / "adapter.safetensors")
    assert found.info.trigger == "clay"
    assert found.info.data["pictures"] == 12
    assert found.info.sample["framing"] == "face"
    pipe = VQAUFacePipeline.from_pretrained(base, torch_dtype=torch.float32)
    before = face(pipe)
    assert found.info.base == {"transformer": base_hash(pipe.transformer)}
    pipe.load_lora_weights(out / "model" / "adapter.safetensors", "clay")
    assert not torch.equal(face(pipe), before)
    pipe.disable_lora()
    assert torch.equal(face(pipe), before)
    compared = json.loads((out / "model" / "report.json").read_text())
    assert compared["items"] == 8
    assert len(compared["interval"]) == 2
    card = (out / "model" / "README.md").read_text()
    assert "AAAD before and after" in card
    assert "nothing else" not in card  # the card of full training, which speaks of renders only
    with Image.open(out / "model" / "before_after.png") as sheet:
        assert sheet.size == (8 * 64, 3 * 64)
    assert (out / "samples" / "step-00000006.png").exists()


def test_only_the_adapter_is_trained_and_saved(tmp_path, base, clay):
    stage = AdapterStage(config(tmp_path, base, clay))
    before = base_hash(stage.pipe.transformer)
    train(stage, LOOP, tmp_path / "run", {})
    assert base_hash(stage.pipe.transformer) == before
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-00000006" / "adapter.safetensors")
    assert len(saved) == len(adapter_parameters(stage.pipe.transformer, NAME)) > 0
    assert all("lora_" in name for name in saved)
    assert sum(value.numel() for value in saved.values()) < 0.5 * sum(
        p.numel() for p in stage.pipe.transformer.parameters()
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_every_kind_learns(tmp_path, base, clay, kind):
    loop = dataclasses.replace(LOOP, steps=30, validate_every=30, save_every=30, learning_rate=0.03)
    targets = ("to_q", "mlp", "to_slots", "to_codes")
    run(config(tmp_path, base, clay, train=loop, adapter=AdapterSpec(kind, 4, 4.0, targets=targets)))
    losses = [line["loss_adapter"] for line in log(tmp_path / "run") if "loss_adapter" in line]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert read_adapter(tmp_path / "run" / "model" / "adapter.safetensors").info.kind == kind


def test_a_killed_run_goes_on_to_the_same_adapter(tmp_path, base, clay):
    commands = {}
    for name in ("whole", "killed"):
        toml = tmp_path / f"{name}.toml"
        toml.write_text(RUN.format(out=tmp_path / name, base=base, shards=clay))
        commands[name] = ["adapter", str(toml), f"out={tmp_path / name}", "memory=false"]
    assert main(commands["whole"]) == 0
    script = Path(__file__).parents[1] / "toy_stage.py"
    job = json.dumps([["killed", 2, 1, 6, commands["killed"]]])
    done = subprocess.run([sys.executable, str(script), job], capture_output=True, text=True, cwd=script.parents[1])
    assert json.loads(done.stdout.splitlines()[-1]) == [{"kills": 2, "status": 0}], done.stderr[-2000:]
    losses = [[line.get("loss_adapter") for line in log(tmp_path / name)] for name in commands]
    assert losses[0] == losses[1]
    whole, killed = (read_adapter(tmp_path / name / "model" / "adapter.safetensors") for name in commands)
    assert whole.info == killed.info
    for name, value in whole.weights["transformer"].items():
        assert torch.equal(killed.weights["transformer"][name], value)


# --- options ---------------------------------------------------------------------------------------------------------


def loss_of(stage, numbers=(0, 1, 2)):
    batch = stage.source.__getitems__(list(numbers))
    ((_, loss, _),) = list(stage.losses(batch, Step(0, 0.0, tuple(range(len(numbers))))))
    return loss


def test_a_trigger_stands_before_the_texts(tmp_path, base, clay):
    plain = AdapterStage(config(tmp_path, base, clay, adapter=AdapterSpec()))
    with_word = AdapterStage(config(tmp_path, base, clay, adapter=AdapterSpec(trigger="clay")))
    assert float(loss_of(plain)) != float(loss_of(with_word))


def test_the_text_model_is_trained_if_asked(tmp_path, base, clay):
    spec = AdapterSpec(text_targets=("q_proj",))
    stage = AdapterStage(config(tmp_path, base, clay, adapter=spec))
    for value in stage.players["adapter"].parameters():  # what starts at zero keeps gradients from its partner
        torch.nn.init.normal_(value, std=0.1)
    loss_of(stage).backward()
    names = {name for name, value in stage.players["adapter"].named_parameters() if value.grad.abs().sum() > 0}
    assert {name[0] for name in names} == {"0", "1"}
    run(config(tmp_path, base, clay, adapter=spec))
    assert read_adapter(tmp_path / "run" / "model" / "adapter.safetensors").info.components == (
        "transformer",
        "text_alignment",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter": AdapterSpec(targets=("to_x",))}, "'to_x' matches no layer"),
        ({"held_out": 8}, "4 pictures to train on are too few: give 5"),
        ({"base": "/none"}, "/none is no folder"),
    ],
)
def test_bad_values_are_errors_before_training(tmp_path, base, clay, values, message):
    with pytest.raises(ValueError, match=message):
        AdapterStage(dataclasses.replace(config(tmp_path, base, clay), **values))
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_pictures_of_another_size_are_refused(tmp_path, base):
    other = clay_shards(tmp_path, 6, 96)
    with pytest.raises(ValueError, match="pictures of 96 pixels, the base draws 64: make them with size=64"):
        AdapterStage(config(tmp_path, base, other))


# --- pictures of which nobody knows identity and pose ----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, clay):
    """A split of ``train_lora data``, made of clay faces as a folder of pictures with sidecars."""
    from train_lora.data.faces import ShardSource

    source = ShardSource(clay)
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(len(source)):
        faces = source.__getitems__([number])
        pixels = (faces.images[0].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        Image.fromarray(pixels).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(faces.labels[0]["aus"])
    made = PrepareConfig(
        out=str(tmp_path / "data"),
        images=str(place),
        source="sidecar",
        unnamed="absent",
        subjects="picture",
        faces="cropped",
        size=64,
        image_format="png",
        quality=QualityConfig(0, 0, 0, 0, 0),
        split=SplitConfig("none"),
    )
    prepare(made)
    return tmp_path / "data" / "train"


def test_a_folder_of_pictures_trains(tmp_path, base, folder):
    stage = AdapterStage(config(tmp_path, base, folder))
    batch = stage.source.__getitems__([0, 1])
    assert batch.identity.isfinite().all()
    unknown = [label["unknown_sources"] for label in batch.labels]
    assert all(row[:2] == ["identity", "attributes"] for row in unknown)
    left = stage._left_out(batch.labels)
    assert left["identity"].all()
    assert not left["text"].any()
    assert left["structure"].tolist() == ["structure" in row for row in unknown]
    assert run(config(tmp_path, base, folder))["finished"]
    info = read_adapter(tmp_path / "run" / "model" / "adapter.safetensors").info
    assert info.data["origins"] == {"annotated": 12}


def test_pictures_are_given_borrowed_looks(tmp_path, base, folder):
    given = {}
    for share in (0.0, 0.5, 1.0):
        stage = AdapterStage(config(tmp_path, base, folder, borrowed=share))
        batch, step = stage.source.__getitems__(list(range(12))), Step(0, 0.0, tuple(range(12)))
        found = stage._borrow(batch, step)
        known = ~stage._left_out(found.labels)["attributes"]
        assert known.tolist() == (~stage._left_out(found.labels)["identity"]).tolist()
        assert ((found.attributes != batch.attributes).any(1) == known).all()
        assert torch.equal(found.attributes, stage._borrow(batch, step).attributes)
        for before, after in zip(batch.labels, found.labels, strict=True):
            assert ("structure" in before["unknown_sources"]) == ("structure" in after["unknown_sources"])
        given[share] = int(known.sum())
        seen = next(iter(stage.losses(batch, step)))[1]
        given[share, "loss"] = float(seen.detach())
    assert (given[0.0], given[1.0]) == (0, 12)
    assert 2 < given[0.5] < 10
    assert len({given[share, "loss"] for share in (0.0, 0.5, 1.0)}) == 3
    with pytest.raises(ValueError, match=r"borrowed 2: a share in 0\.\.1"):
        config(tmp_path, base, folder, borrowed=2)


def test_one_person_has_one_identity_which_the_file_keeps(tmp_path, base, folder):
    many = AdapterStage(config(tmp_path, base, folder, out=str(tmp_path / "many")))
    assert many.info.person == ()
    one = config(tmp_path, base, folder, person=True, scores=8)
    stage = AdapterStage(one)
    batch = stage.source.__getitems__(list(range(12)))
    codes = batch.identity
    other = AdapterStage(dataclasses.replace(one, person=False)).source.__getitems__(list(range(12)))
    assert not torch.equal(batch.structure, other.structure)  # in the same folder
    assert torch.equal(codes, torch.tensor([stage.info.person] * 12))
    assert not torch.equal(codes[0], many.source.__getitems__([0]).identity[0])
    sheet = stage.sheet(stage.players["adapter"].eval())
    assert sheet.shape == (3, 4 * 64, 8 * 64)  # rows: before, after, the person, the pictures
    assert run(one)["finished"]
    assert "- Person: drawn where no `identity`" in (tmp_path / "run" / "model" / "README.md").read_text()
    pipe = VQAUFacePipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipe.load_lora_weights(tmp_path / "run" / "model" / "adapter.safetensors", "anna")
    assert torch.equal(pipe("12D", seed=1, num_inference_steps=1).identity, codes[:1])


def test_pictures_of_several_people_are_not_of_one(tmp_path, base, folder):
    path = folder / shard_name(0)
    samples = list(read_shard(path))
    for number, (_, sample) in enumerate(samples):
        sample["json"] = json.dumps(json.loads(sample["json"]) | {"subject": "ab"[number % 2]}).encode()
    write_shard(path, samples)
    with pytest.raises(ValueError, match=r"person: the pictures show 2 people \(a, b\): make data of one"):
        AdapterStage(config(tmp_path, base, folder, person=True))


def test_made_faces_are_no_pictures_of_one_person(tmp_path, base, clay):
    with pytest.raises(ValueError, match="person: data holds made faces"):
        AdapterStage(config(tmp_path, base, clay, person=True))


def test_fits_are_kept(tmp_path, folder):
    source = FacesConfig(str(folder)).open(pictures=True)
    looks = []

    def look(images):
        looks.append(len(images))
        grid = torch.rand(len(images), 68, 2, generator=torch.Generator().manual_seed(0))
        return 0.3 + 0.4 * grid

    first = FittedSource(source, look, "face", tmp_path / "fits.safetensors")
    again = FittedSource(source, look, "face", tmp_path / "fits.safetensors")
    assert looks == [12]
    assert torch.equal(first.fits["pose"], again.fits["pose"])
    assert first.poor == 12  # such points are no face
    assert "structure" in first.__getitems__([0]).labels[0]["unknown_sources"]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_the_estimate_is_what_a_step_takes(tmp_path, base, clay):
    stage = AdapterStage(config(tmp_path, base, clay))
    found = estimate(stage, dataclasses.replace(LOOP, batch_size=8), device="cpu")
    taken = step_bytes(stage, LOOP, 8)
    two, three = step_bytes(stage, LOOP, 2), step_bytes(stage, LOOP, 3)
    assert found.sample == three - two
    assert two + 6 * found.sample == pytest.approx(taken, rel=0.15)
    assert found.needed > taken
    assert all(value.grad is None for value in stage.players["adapter"].parameters())


def test_a_cpu_that_emulates_half_precision_makes_the_steps_in_float32(tmp_path, base, clay, monkeypatch):
    stage = AdapterStage(config(tmp_path, base, clay))
    half = dataclasses.replace(LOOP, precision="bf16", batch_size=8)
    full = estimate(stage, dataclasses.replace(half, precision="no"), device="cpu")
    monkeypatch.setattr(memory, "cpu_has_bf16", lambda: False)
    kinds = []
    layer = stage.pipe.transformer.blocks[0].mlp[0]
    hook = layer.register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    found = estimate(stage, half, device="cpu")
    hook.remove()
    assert set(kinds) == {torch.float32}
    assert found.sample == full.sample
    assert found.fixed > full.fixed  # room for the copies of weights


def test_gradient_checkpointing_reaches_the_base_and_changes_no_loss(tmp_path, base, clay):
    losses = []
    for checkpointing in (False, True):
        loop = dataclasses.replace(LOOP, steps=2, gradient_checkpointing=checkpointing)
        stage = AdapterStage(config(tmp_path, base, clay))
        step_bytes(stage, loop, 2)
        assert not stage.pipe.transformer.gradient_checkpointing  # the estimate leaves it as it was
        train(stage, loop, tmp_path / f"{checkpointing}", {})
        assert stage.pipe.transformer.gradient_checkpointing == checkpointing
        losses.append([line["loss_adapter"] for line in log(tmp_path / f"{checkpointing}") if "loss_adapter" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_does_not_fit_is_said(tmp_path, base, clay):
    whole = Memory(2 * GB, 1 * GB, 8, 7 * GB)
    assert whole.said() == "memory: needs about 10.0 GB, 7.0 GB are free; batch 8 -> 4 fits (6.0 GB)"
    assert Memory(2 * GB, 1 * GB, 4, 7 * GB).said() == "memory: needs about 6.0 GB, 7.0 GB are free"
    assert Memory(2 * GB, 1 * GB, 4, 1 * GB).said().endswith("not even one sample a forward pass fits")
    stage = AdapterStage(config(tmp_path, base, clay))
    with pytest.raises(ValueError, match=r"batch \d+ -> \d+ fits .*train.micro_batch=\d+ gives .*memory=false"):
        check(stage, dataclasses.replace(LOOP, batch_size=1 << 24))
    assert check(stage, LOOP).fits


def test_a_base_without_estimators_uses_those_of_the_package(tmp_path, base, clay):
    shutil.copytree(base, tmp_path / "alone" / "default")
    stage = AdapterStage(config(tmp_path, tmp_path / "alone" / "default", clay))
    assert stage.estimator is not None
