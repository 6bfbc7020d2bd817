"""LoRAs of Stable Diffusion at toy size: what trains, what is written and read again, captions, options, errors."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from toy_stable_diffusion import END, START, plain_shards, save_one_file, save_toy

from auface_diffusers.facs import units
from auface_diffusers.models.adapters import adapter_parameters, base_hash
from train_lora.__main__ import main
from train_lora.adapters import NAME
from train_lora.config import load_config
from train_lora.data.faces import FacesConfig
from train_lora.loop import LoopConfig, Step, train
from train_lora.memory import check, estimate
from train_lora.stable_diffusion.lora import LoraSpec, switched_off
from train_lora.stable_diffusion.lora_file import HEADER
from train_lora.stable_diffusion.text import CaptionEncoder, pieces
from train_lora.stages.sd_adapter import FILE, SDAdapterConfig, SDAdapterStage

ROOT = Path(__file__).parents[2]
KINDS = ("sd1", "sd2", "sdxl")
LOOP = LoopConfig(
    steps=4, batch_size=2, learning_rate=0.02, warmup=1, ema=0.5, log_every=1, validate_every=4, save_every=4
)
EVERY_LAYER = ("attentions", "resnets", "downsamplers", "upsamplers")
EVERY_TEXT_LAYER = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of toy checkpoints by kind."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_toy(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder of 8 pictures of 64 pixels with texts."""
    return plain_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that keeps latents for all tests of this file."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def begun(bases, shards, kept):
    """Makes a stage."""

    def begin(kind="sd1", **values):
        return SDAdapterStage(config(kept, bases[kind], shards, **values))

    return begin


def config(out, base, shards, **values):
    given = {
        "out": str(out),
        "train": LOOP,
        "data": FacesConfig(str(shards)),
        "base": str(base),
        "resolution": 32,
        "captions": ("tags",),
        "lora": LoraSpec(rank=2, alpha=2.0),
        "samples": 0,
    }
    return SDAdapterConfig(**{**given, **values})


def run(settings, stage=SDAdapterStage):
    return train(stage(settings), settings.train, Path(settings.out), dataclasses.asdict(settings))


def loss_of(stage, numbers=(0, 1), seeds=(0, 1)):
    ((_, loss, _),) = list(stage.losses(stage.source.__getitems__(list(numbers)), Step(0, 0.0, tuple(seeds))))
    return loss


def shaken(stage):
    """The stage with a LoRA that does something."""
    generator = torch.Generator().manual_seed(0)
    for value in stage.players["lora"].parameters():
        torch.nn.init.normal_(value, std=0.2, generator=generator)
    return stage


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_a_batch_lower_its_loss_and_change_the_lora_alone(begun, kind):
    stage = begun(kind, lora=LoraSpec(4, 4.0, text_targets=("fc1",)))
    player = stage.players["lora"]
    assert all("lora_" in name for name, _ in player.named_parameters())
    assert {value.dtype for value in player.parameters()} == {torch.float32}
    trained = {id(value) for value in player.parameters()}
    for name in stage.hashes:
        part = getattr(stage.pipe, name)
        assert all(value.requires_grad == (id(value) in trained) for value in part.parameters())
    optimizer = torch.optim.Adam(player.parameters(), 0.01)
    losses = []
    for _ in range(12):
        loss = loss_of(stage)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]
    assert {name: base_hash(getattr(stage.pipe, name)) for name in stage.hashes} == stage.hashes


def test_gradients_reach_every_part_that_is_adapted(begun):
    stage = shaken(begun("sdxl", lora=LoraSpec(2, 2.0, text_targets=("q_proj",))))
    loss_of(stage).backward()
    reached = {name[0] for name, value in stage.players["lora"].named_parameters() if value.grad.abs().sum() > 0}
    assert reached == {"0", "1", "2"}  # the UNet, and two text encoders


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_the_target_is_what_the_base_predicts(begun, kind):
    stage = begun(kind, drop=0.0)
    batch, captions = stage.source.__getitems__([0]), stage.text([stage.source.__getitems__([0]).captions[0][0]])
    generator = torch.Generator().manual_seed(3)
    time, noise = (
        torch.randint(1000, (), generator=generator),
        torch.randn(batch.latents[0].shape, generator=generator),
    )
    share = stage.scheduler.alphas_cumprod[time]
    noisy = share.sqrt() * batch.latents[0] + (1 - share).sqrt() * noise
    predicted = stage.pipe.unet(noisy[None], time, captions.hidden).sample[0]
    wanted = noise if kind == "sd1" else share.sqrt() * noise - (1 - share).sqrt() * batch.latents[0]
    assert float(loss_of(stage, [0], [3])) == pytest.approx(float((predicted - wanted).square().mean()), rel=1e-4)


def test_a_run_leaves_a_lora_a_sheet_and_a_card(tmp_path, bases, shards):
    settings = config(
        tmp_path / "run",
        bases["sd1"],
        shards,
        lora=LoraSpec(2, 2.0, trigger="clay"),
        held_out=2,
        samples=2,
        sample_steps=2,
    )
    report = run(settings)
    assert report["finished"]
    assert report["validation"]["loss"] > 0
    with Image.open(tmp_path / "run" / "samples" / "step-00000004.png") as sheet:
        assert sheet.size == (2 * 32, 3 * 32)
    with safe_open(tmp_path / "run" / "model" / FILE, "pt") as file:
        header = file.metadata()
    told = json.loads(header[HEADER])
    assert told["base"] == {"unet": base_hash(DiffusionPipeline.from_pretrained(bases["sd1"]).unet)}
    assert told["channels"] == list(units.channels)
    assert told["data"]["pictures"] == 6
    assert (told["trigger"], told["resolution"], told["captions"]) == ("clay", 32, ["tags"])
    assert (told["family"], told["rank"], told["steps"]) == ("sd1", 2, 4)
    assert (header["ss_base_model_version"], header["ss_network_dim"], header["ss_steps"]) == ("sd_v1", "2", "4")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "models/loras" in card
    assert "`clay`" in card
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-00000004" / "lora.safetensors")
    assert all("lora_" in name for name in saved)


class Stopped(SDAdapterStage):
    """Is asked to stop in its third step."""

    def losses(self, batch, step):
        if step.number == 2:
            signal.raise_signal(signal.SIGTERM)
        return super().losses(batch, step)


def test_a_stopped_run_goes_on_to_the_same_lora(tmp_path, bases, shards):
    whole, stopped = (
        config(tmp_path / name, bases["sd2"], shards, lora=LoraSpec(2, 2.0, 0.2, text_targets=("fc1",)))
        for name in ("whole", "stopped")
    )
    assert run(whole)["finished"]
    assert run(stopped, Stopped)["step"] == 3
    assert run(stopped)["finished"]
    files = [load_file(tmp_path / name / "model" / FILE) for name in ("whole", "stopped")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert files[0].keys() == files[1].keys()


@pytest.mark.slow
def test_half_precision_keeps_the_lora_in_float32(begun, bases, shards, tmp_path):
    settings = config(tmp_path, bases["sdxl"], shards, train=dataclasses.replace(LOOP, precision="bf16"), samples=1)
    stage = SDAdapterStage(dataclasses.replace(settings, sample_steps=1, held_out=1))
    assert stage.pipe.unet.conv_in.weight.dtype == stage.pipe.text_encoder_2.dtype == torch.bfloat16
    assert stage.pipe.vae.dtype == torch.float32
    assert {value.dtype for value in stage.players["lora"].parameters()} == {torch.float32}
    assert train(stage, settings.train, tmp_path / "run", {})["finished"]


def test_gradient_checkpointing_reaches_all_parts_and_changes_no_gradient(begun):
    found = []
    for checkpointing in (False, True):
        stage = shaken(begun("sdxl", lora=LoraSpec(2, 2.0, text_targets=("q_proj",))))
        player = stage.players["lora"].train()
        if checkpointing:
            player.enable_gradient_checkpointing()
            assert stage.pipe.unet.is_gradient_checkpointing
            assert stage.pipe.text_encoder.is_gradient_checkpointing
            assert stage.pipe.text_encoder_2.is_gradient_checkpointing
        loss_of(stage).backward()
        found.append(torch.cat([value.grad.flatten() for value in player.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_peft(monkeypatch):
    """transformers 5.24 refuses the newest peft of many an index; the function behind the check works with it."""
    from transformers.integrations import peft

    monkeypatch.setattr(peft, "check_peft_version", lambda **_: None)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_diffusers_reads_the_file_and_does_what_training_did(tmp_path, begun, bases, kind, old_peft):
    spec = LoraSpec(4, 2.0, targets=EVERY_LAYER, text_targets=EVERY_TEXT_LAYER)
    stage = shaken(begun(kind, lora=spec))
    stage.export(stage.players["lora"].eval(), tmp_path, {"step": 1, "seconds": 1.0, "validation": {}})
    pipe = DiffusionPipeline.from_pretrained(bases[kind])
    before = CaptionEncoder(pipe)(["smile"]).hidden
    pipe.load_lora_weights(tmp_path / FILE, adapter_name="ours")
    read, trained = CaptionEncoder(pipe)(["smile"]), stage.text(["smile"])
    assert not torch.allclose(read.hidden, before, atol=0.01)
    torch.testing.assert_close(read.hidden, trained.hidden, rtol=0.01, atol=0.005)
    added = {}
    if kind == "sdxl":
        torch.testing.assert_close(read.pooled, trained.pooled, rtol=0.01, atol=0.005)
        added = {"text_embeds": read.pooled, "time_ids": torch.full((1, 6), 32.0)}
    noisy = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert {len(value) for name, value in load_file(tmp_path / FILE).items() if "lora_down" in name} == {4}
    one, two = (p.unet(noisy, 5, read.hidden, added_cond_kwargs=added).sample for p in (pipe, stage.pipe))
    with switched_off(stage.players["lora"]):
        base = stage.pipe.unet(noisy, 5, read.hidden, added_cond_kwargs=added).sample
    torch.testing.assert_close(one, two, rtol=0.01, atol=0.005)
    assert (one - base).abs().max() > 0.05
    assert {len(adapter_parameters(p.unet, name)) for p, name in ((pipe, "ours"), (stage.pipe, NAME))} == {
        2 * json.loads(header_of(tmp_path)[HEADER])["layers"]["unet"]
    }


def header_of(folder):
    with safe_open(folder / FILE, "pt") as file:
        return file.metadata()


def test_weights_that_are_no_numbers_are_not_written(tmp_path, begun):
    stage = begun()
    next(stage.players["lora"].parameters()).data.fill_(1e30)
    with pytest.raises(ValueError, match="not finite"):
        stage.export(stage.players["lora"], tmp_path, {"step": 1, "seconds": 1.0, "validation": {}})
    assert not list(tmp_path.iterdir())


# --- captions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_captions_are_not_cut(begun, kind):
    text = begun(kind).text
    long = "the inner brows rise. " * 12
    one, two = text([long + "jaw"]), text([long + "lip"])
    assert one.hidden.shape[1] == 77 * len(pieces(text.parts[0][0], long + "jaw")) > 77
    assert one.mask is None
    assert not torch.allclose(one.hidden[:, -77:], two.hidden[:, -77:])
    assert torch.equal(one.hidden[:, :77], two.hidden[:, :77])
    if kind == "sdxl":
        assert torch.equal(one.pooled, two.pooled)  # of the first piece


@pytest.mark.parametrize(("letters", "count"), [(0, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_pieces_hold_75_tokens_between_their_ends(begun, letters, count):
    tokenizer = begun("sd2").text.parts[0][0]
    found = pieces(tokenizer, "a " * letters)  # a letter is a token
    assert len(found) == count
    assert all(len(one) == 77 and one[0] == START and END in one for one in found)
    assert sum(one.index(END) - 1 for one in found) == letters
    assert set(found[-1][found[-1].index(END) + 1 :]) <= {tokenizer.pad_token_id} == {0}


def test_a_short_caption_beside_a_long_one_counts_as_if_alone(begun):
    stage = begun("sdxl", drop=0.0)
    batch = stage.source.__getitems__([0, 1])
    batch = dataclasses.replace(batch, captions=(("smile",), ("a long caption, " * 20,)))
    both = stage._cost(stage.players["lora"], batch, torch.tensor([10, 10]), batch.latents, ["smile", "long, " * 40])
    first = dataclasses.replace(batch, latents=batch.latents[:1], sizes=batch.sizes[:1])
    alone = stage._cost(stage.players["lora"], first, torch.tensor([10]), batch.latents[:1], ["smile"])
    assert float(both[0]) == pytest.approx(float(alone), rel=1e-4)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_latents_are_worked_out_once(tmp_path, bases, shards, capsys):
    stage = SDAdapterStage(config(tmp_path, bases["sd1"], shards, resolution=64))
    assert "8 pictures to latents of 64 pixels" in capsys.readouterr().err
    again = SDAdapterStage(config(tmp_path, bases["sd1"], shards, resolution=64))
    assert "latents" not in capsys.readouterr().err
    batch = again.source.__getitems__([3])
    images = FacesConfig(str(shards)).open(pictures=True).__getitems__([3]).images
    with torch.no_grad():
        wanted = stage.pipe.vae.encode(images * 2 - 1).latent_dist.mean * 0.18215
    torch.testing.assert_close(batch.latents, wanted, rtol=1e-3, atol=1e-3)
    assert batch.sizes == (64,)
    SDAdapterStage(config(tmp_path, bases["sd1"], shards, resolution=32))
    assert "latents of 32 pixels" in capsys.readouterr().err


def test_sdxl_is_told_the_size_that_a_picture_had(begun):
    stage = begun("sdxl")
    assert stage._time_ids([64, 16], torch.device("cpu")).tolist() == [[64, 64, 0, 0, 32, 32], [16, 16, 0, 0, 32, 32]]
    batch = stage.source.__getitems__([0])
    costs = [
        stage._cost(
            stage.players["lora"], dataclasses.replace(batch, sizes=(size,)), torch.tensor([5]), batch.latents, [""]
        )
        for size in (64, 1024)
    ]
    assert float(costs[0]) != float(costs[1])


# --- options ---------------------------------------------------------------------------------------------------------

OPTIONS = {
    "alpha": {"lora": LoraSpec(2, 6.0)},
    "dropout": {"lora": LoraSpec(2, 2.0, dropout=0.5)},
    "targets": {"lora": LoraSpec(2, 2.0, targets=("ff",))},
    "text_targets": {"lora": LoraSpec(2, 2.0, text_targets=("fc2",))},
    "trigger": {"lora": LoraSpec(2, 2.0, trigger="clay")},
    "resolution": {"resolution": 48},
    "captions": {"captions": ("anatomical",)},
    "drop": {"drop": 0.99},
    "min_snr": {"min_snr": 0.5},
    "noise_offset": {"noise_offset": 0.5},
}


def shaken_loss(stage):
    """The loss in training with the same LoRA every time, so that it follows from the options."""
    shaken(stage).players["lora"].train()
    torch.manual_seed(0)
    return float(loss_of(stage))


@pytest.fixture(scope="module")
def usual(bases, shards, kept):
    return shaken_loss(SDAdapterStage(config(kept, bases["sd1"], shards, drop=0.0)))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_the_loss(begun, usual, name):
    assert shaken_loss(begun(**({"drop": 0.0} | OPTIONS[name]))) != pytest.approx(usual, rel=1e-5)


def test_empty_captions_are_as_many_as_asked_for(begun):
    stage = begun(drop=0.25)
    drawn = [stage._caption(("smile",), seed) for seed in range(400)]
    assert 70 < drawn.count("") < 130
    assert begun(drop=0.0)._caption(("smile",), 1) == "smile"


def test_captions_are_drawn_from_all_kinds(begun):
    stage = begun(captions=("tags", "varied"), drop=0.0)
    texts = stage.source.__getitems__([0]).captions[0]
    assert len(texts) == 3  # tags, and two in other words
    assert {stage._caption(texts, seed) for seed in range(40)} == set(texts)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_min_snr_weighs_as_the_paper_says(begun, kind):
    stage = begun(kind, min_snr=5.0)
    times = torch.tensor([0, 300, 999])
    ratio = stage.scheduler.alphas_cumprod[times] / (1 - stage.scheduler.alphas_cumprod[times])
    wanted = ratio.clamp(max=5) / (ratio if kind == "sd1" else ratio + 1)
    torch.testing.assert_close(stage._weight(times), wanted)
    assert torch.equal(begun(kind)._weight(times), torch.ones(3))


def test_held_out_pictures_are_measured_and_not_trained_on(begun):
    stage = begun(held_out=3)
    assert (len(stage.source), len(stage.held_out)) == (5, 3)
    with torch.no_grad():
        player = stage.players["lora"]
        assert stage.validate(player) == stage.validate(player) != shaken(stage).validate(player)
    assert begun().validate(player) == {}


@torch.no_grad()
def test_sheets_are_drawn_as_asked(begun):
    def drawn(**values):
        stage = shaken(begun(**({"samples": 1, "sample_steps": 2, "captions": ("varied",)} | values)))
        return stage.sheet(stage.players["lora"].eval())

    usual = drawn()
    assert usual.shape == (3, 3 * 32, 32)
    assert not torch.equal(usual[:, 32:64], usual[:, 64:])  # without the LoRA, and with it
    assert not torch.equal(drawn(sample_steps=3), usual)
    assert not torch.equal(drawn(guidance=2.0), usual)
    assert drawn(samples=2).shape == (3, 3 * 32, 64)
    assert begun().sheet(None) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
@torch.no_grad()
def test_other_kinds_draw_sheets(begun, kind):
    stage = begun(kind, samples=1, sample_steps=1)
    assert stage.sheet(stage.players["lora"].eval()).isfinite().all()


# --- what is refused -------------------------------------------------------------------------------------------------

BAD = {
    "no multiple of 8": ({"resolution": 100}, "resolution 100: a multiple of 8"),
    "an unknown caption": ({"captions": ("poem",)}, "captions poem: kinds of text are anatomical"),
    "no caption": ({"captions": ()}, "captions is empty"),
    "no shards": ({"data": FacesConfig()}, "name a folder of shards"),
    "a share": ({"drop": 1.0}, "drop lies in 0..1"),
    "too few": ({"data": "three"}, "3 pictures to train on are too few: give 5"),
    "all held out": ({"held_out": 6}, "2 pictures to train on are too few"),
    "a target": ({"lora": LoraSpec(targets=("to_x",))}, "'to_x' matches no layer of UNet2DConditionModel"),
    "a text target": ({"lora": LoraSpec(text_targets=("to_q",))}, "'to_q' matches no layer of CLIPTextModel"),
    "a layer without a name": ({"lora": LoraSpec(targets=("conv_in",))}, "conv_in of unet cannot be written"),
    "an embedding": ({"lora": LoraSpec(text_targets=("token_embedding",))}, "of text_encoder cannot be written"),
    "a layer that SDXL leaves out": (
        {"base": "sdxl", "lora": LoraSpec(text_targets=("layers.2",))},
        "only layer 2 of text_encoder, which SDXL",
    ),
    "nothing there": ({"base": "/none"}, "base /none is no Stable Diffusion checkpoint: model_index.json is not"),
    "a config for a folder": ({"base_config": "x"}, "base_config is for a base that is one file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_errors_before_training(tmp_path, bases, shards, name):
    values, message = BAD[name]
    if values.get("data") == "three":
        values = {"data": FacesConfig(str(shards), faces=3)}
    given = {"base": "sd1", "shards": shards} | values
    given["base"] = bases.get(given["base"], given["base"])
    with pytest.raises(ValueError, match=message):
        SDAdapterStage(config(tmp_path / "run", **given))
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_pictures_without_the_caption_are_refused(tmp_path, bases):
    (tmp_path / "d").mkdir()
    plain_shards(tmp_path / "d", wordings=0)
    with pytest.raises(ValueError, match="picture 0 of the shards has no caption of captions varied"):
        SDAdapterStage(config(tmp_path / "run", bases["sd1"], tmp_path / "d", captions=("varied",)))


def broken(base, folder, change):
    place = folder / "broken"
    shutil.copytree(base, place)
    change(place)
    return place


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickled(place):
    file = place / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


CHANGES = {
    "pickle": (pickled, r"diffusion_pytorch_model.bin is a pickle"),
    "no weights": (lambda p: (p / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "vae has no .safetensors"),
    "a part": (lambda p: shutil.rmtree(p / "text_encoder"), "lacks text_encoder"),
    "another pipeline": (lambda p: edit(p / "model_index.json", _class_name="FluxPipeline"), "is a FluxPipeline"),
    "damaged": (lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99), "cannot be"),
    "inpainting": (lambda p: edit(p / "vae" / "config.json", latent_channels=8), "cannot be loaded|its VAE has 8"),
    "prediction": (
        lambda p: edit(p / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "predicts 'sample': epsilon and v_prediction",
    ),
    "means": (lambda p: edit(p / "vae" / "config.json", latents_mean=[0.0] * 4), "latents_mean"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_checkpoint_is_refused(tmp_path, bases, shards, name):
    change, message = CHANGES[name]
    base = broken(bases["sd1"], tmp_path, change)
    with pytest.raises(ValueError, match=message):
        SDAdapterStage(config(tmp_path / "run", base, shards))


def test_one_file_needs_a_folder_of_configurations(tmp_path, shards):
    for ending, message in ((".ckpt", "is a pickle"), (".safetensors", "set base_config"), (".txt", "no checkpoint")):
        path = tmp_path / f"model{ending}"
        path.write_bytes(b"x")
        with pytest.raises(ValueError, match=message):
            SDAdapterStage(config(tmp_path / "run", path, shards))


def test_one_file_with_a_folder_of_configurations_is_the_same_base(tmp_path, begun, bases, shards):
    path = save_one_file(bases["sd1"], tmp_path / "one.safetensors")
    told = tmp_path / "told"  # without any weights
    shutil.copytree(bases["sd1"], told, ignore=shutil.ignore_patterns("*.safetensors"))
    stage = SDAdapterStage(config(tmp_path / "run", path, shards, base_config=str(told)))
    assert stage.hashes == begun().hashes
    assert loss_of(stage).item() == pytest.approx(loss_of(begun()).item(), rel=1e-5)


def test_weights_in_float16_alone_will_do(tmp_path, begun, bases, shards):
    half = save_toy(tmp_path / "half", "sd1", variant="fp16")
    loss = float(loss_of(SDAdapterStage(config(tmp_path / "run", half, shards))))
    assert loss == pytest.approx(float(loss_of(begun())), rel=1e-3)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_trains_and_says_what_is_wrong(tmp_path, bases, shards, capsys):
    call = ["sd-adapter", str(ROOT / "train_lora" / "configs" / "sd-adapter.toml"), f"data.shards={shards}"]
    call += [f"out={tmp_path / 'run'}", f"base={bases['sd1']}", "resolution=32", "samples=0", "held_out=1"]
    call += ["train.steps=1", "train.batch_size=2", "train.precision=no", 'captions=["tags"]']
    assert main(call) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["finished"]
    assert "memory: needs about" in told.err
    assert (tmp_path / "run" / "model" / FILE).exists()
    assert main([*call, f"out={tmp_path / 'other'}", "lora.targets=['to_x']"]) == 1
    assert "matches no layer" in capsys.readouterr().err


def test_the_shipped_configuration_is_one():
    found = load_config(SDAdapterConfig, ROOT / "train_lora" / "configs" / "sd-adapter.toml")
    assert found.resolution == 512


def test_what_does_not_fit_is_said(begun):
    stage = begun(lora=LoraSpec(2, 2.0, text_targets=("q_proj",)))
    found = estimate(stage, LOOP, device="cpu")
    parts = [getattr(stage.pipe, name) for name in stage.hashes]
    assert found.fixed > sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    with pytest.raises(ValueError, match=r"train.micro_batch=\d+ gives .*memory=false"):
        check(stage, dataclasses.replace(LOOP, batch_size=1 << 26))
