"""What the losses of the tokenizer see, and what they are blind to."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from auface_diffusers.models import FaceTokenizer
from train_lora.data.faces import FaceBatch, FacesConfig
from train_lora.loop import LoopConfig, Step
from train_lora.stages.painting import colour_loss, detail_loss, feature_map, texture_loss, weighted_l1
from train_lora.stages.tokenizer import TokenizerConfig, TokenizerLosses, TokenizerStage

SIZE = 64


def lined(depth):
    """Grey skin (1, 3, S, S) with lines of ``depth`` across, four pixels apart."""
    rows = torch.arange(SIZE) % 4 == 0
    return (0.6 - depth * rows.float())[None, None, :, None].expand(1, 3, SIZE, SIZE).contiguous()


def of(images, parts=1):
    """A batch with nothing but pictures, all of them skin."""
    points = torch.full((len(images), 68, 2), 34 / SIZE)  # the middle of a cell of the map
    none = torch.zeros(len(images), 1)
    whole = torch.full((len(images), SIZE, SIZE), parts)
    return FaceBatch(none, none, none, none, points, ({},) * len(images), images=images, parts=whole)


def blurred(images):
    return F.avg_pool2d(F.pad(images, (4,) * 4, mode="reflect"), 9, stride=1)


# --- texture ---------------------------------------------------------------------------------------------------------


def test_faint_lines_weigh_as_much_in_texture_as_deep_ones():
    faint, deep = lined(0.04), lined(0.4)
    lost = [float(texture_loss(blurred(x), of(x))) for x in (faint, deep)]
    assert lost[0] > 0.6
    assert lost[0] > 0.6 * lost[1]
    in_pixels = [float(weighted_l1(blurred(x), of(x), 0.0)) for x in (faint, deep)]
    assert in_pixels[0] < 0.11 * in_pixels[1]  # where the difference of pixels hardly sees them


def test_texture_of_the_same_picture_is_nothing_in_brighter_light_too():
    x = lined(0.05)
    assert float(texture_loss(x, of(x))) == pytest.approx(0, abs=1e-4)
    assert float(texture_loss(x + 0.1, of(x))) == pytest.approx(0, abs=1e-3)
    assert float(texture_loss(1.2 - x, of(x))) > 1  # lines that are bright instead of dark are worse than none


def test_texture_does_not_take_noise_for_lines():
    flat = torch.full((1, 3, SIZE, SIZE), 0.6)
    noise = 0.002 * torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert float(texture_loss(flat + noise, of(flat))) < 0.05


def test_texture_counts_on_the_skin_alone():
    x = lined(0.1)
    assert float(texture_loss(blurred(x), of(x, parts=8))) == 0


# --- the others ------------------------------------------------------------------------------------------------------


def test_colour_sees_hue_and_not_brightness():
    x = lined(0.0)
    tinted = x + torch.tensor([0.1, 0.0, -0.1])[None, :, None, None]
    assert float(colour_loss(x + 0.1, x)) == pytest.approx(0, abs=1e-6)
    assert float(colour_loss(tinted, x)) > 0.03


def test_detail_sees_edges_and_not_an_even_shift():
    x = lined(0.2)
    assert float(detail_loss(x + 0.1, x)) == pytest.approx(0, abs=1e-6)
    assert float(detail_loss(blurred(x), x)) > 0.05


def test_features_weigh_more():
    batch = of(lined(0.0))
    near = feature_map(batch, 4.0)[0]
    assert near[34, 34] > 3
    assert near[0, 0] < 0.01
    middle, corner = (batch.images.clone() for _ in range(2))
    middle[..., 30:38, 30:38] += 0.2
    corner[..., :8, :8] += 0.2
    assert float(weighted_l1(middle, batch, 4.0)) > 2 * float(weighted_l1(corner, batch, 4.0))
    even = [float(weighted_l1(x, batch, 0.0)) for x in (middle, corner)]
    assert even[0] == pytest.approx(even[1], rel=1e-5)


# --- their weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "detail", "texture", "colour", "parts", "landmarks"])
def test_weights_of_the_losses(faces, tmp_path, name):
    data = FacesConfig(shards=faces.out)
    loop = LoopConfig(steps=1, batch_size=4, learning_rate=1e-3)
    plain = TokenizerLosses(texture=0.1, adversarial=0.0)
    torch.manual_seed(0)
    FaceTokenizer(image_size=SIZE, channels=(8, 8, 16)).save_pretrained(tmp_path / "start")
    found = []
    for losses in (plain, dataclasses.replace(plain, **{name: 3 * getattr(plain, name)})):
        stage = TokenizerStage(TokenizerConfig("", loop, data, data, losses=losses, start=str(tmp_path / "start")))
        batch = stage.source.__getitems__(list(range(4)))
        ((_, loss, values),) = list(stage.losses(batch, Step(0, 0.0, (0, 1, 2, 3))))
        found.append((float(loss.detach()), values))
    assert found[0][0] != found[1][0]
    if name != "features":  # which changes how pixels are weighed, not what this is worth
        assert found[1][1][name] == pytest.approx(3 * found[0][1][name], rel=1e-4)
