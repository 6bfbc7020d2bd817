"""A generator before a suite, files before a detector, two runs side by side: with real models of toy size."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auface_diffusers.anatomy import Camera
from auface_diffusers.cli import main
from auface_diffusers.cli_models import load_pipeline, model_hash
from auface_diffusers.evaluation import EvaluationConfig, compare_runs, entries, evaluate_model, manifest, score_files
from auface_diffusers.evaluation.faces import Wanted, pictures, rendered
from auface_diffusers.face_file import save_face
from auface_diffusers.facs import AUSet, describe, resolve
from auface_diffusers.metrics import AAAD
from auface_diffusers.metrics.detectors import load_detector
from auface_diffusers.metrics.suite import KINDS, SuiteItem, load_suite

_spec = importlib.util.spec_from_file_location("toy_pipeline", Path(__file__).parents[1] / "toy_pipeline.py")
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

CODES = ("12D", "12D+25C", "4C", "1C+4C", "12C+15C", "24C+25D", "0", "L12C")
QUICK = EvaluationConfig(steps=1, gate=0, resamplings=20, permutations=5, least=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights")
    toy.save_weights(place)
    return place


@pytest.fixture(scope="module")
def detector(weights):
    return load_detector(weights / "evaluation_estimator")


@pytest.fixture(scope="module")
def pipe(weights):
    made = load_pipeline(weights / "default")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "few.jsonl"
    lines = [
        {"id": str(n), "kind": KINDS[n % 5], "aus": code, "identities": [n, n + 50], "seeds": [n, n], "new": n > 4}
        for n, code in enumerate(CODES)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def run(pipe, weights, suite_file, detector, out, config=QUICK, show=None):
    return evaluate_model(pipe, model_hash(weights / "default"), load_suite(suite_file), detector, out, config, show)


@pytest.fixture(scope="module")
def done(pipe, weights, suite_file, detector, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(pipe, weights, suite_file, detector, out)


def test_the_standard_suite_is_what_it_says():
    suite = load_suite("standard")
    assert len(suite.items) >= 400
    assert {item.kind for item in suite.items} == set(KINDS)
    assert suite.hash == "526182ee7cae8910", "a suite never changes: a new version is a new file"
    for item in suite.items:
        assert len(item.seeds) == len(set(item.identities)) == 4
        assert all(level == int(level) >= 2 for _, level in item.aus.items())
        assert resolve(item.aus).effective.codes
    assert sum(item.new for item in suite.items) > 150


def test_an_evaluation_is_whole(done, detector):
    out, report = done
    assert json.loads((out / "report.json").read_text()) == report
    assert report["n_items"] == 8
    assert report["n_images"] == 16
    assert report["detectors"][0]["sha"] == detector.hash
    assert report["fail_rate"] == 0
    assert report["aaad"] == pytest.approx(np.mean([row["aaad"] for row in report["per_au"] if row["aaad"]]))
    assert report["ci"][0] <= report["aaad"] <= report["ci"][1]
    assert report["conflict"]["n"] == 3
    assert set(report["kinds"]) == {*KINDS, "new"}
    assert report["kinds"]["new"]["n_items"] == 3
    assert len(report["confusion"]["units"]) == len(report["confusion"]["seen"]) == len(report["au_list"])
    assert len((out / "drawn.jsonl").read_text().splitlines()) == 16
    assert Image.open(out / "samples.png").size == (8 * 64, 2 * 64)
    assert Image.open(out / "worst.png").size == (8 * 64, 4 * 64)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    done, pipe, weights, suite_file, detector, tmp_path, monkeypatch
):
    out, _ = done
    monkeypatch.setattr("auface_diffusers.evaluation.run.BATCH", 4)

    class Killed(Exception):
        pass

    def kill(images, total):
        if images >= 8:
            raise Killed

    with pytest.raises(Killed):
        run(pipe, weights, suite_file, detector, tmp_path, show=kill)
    with (tmp_path / "drawn.jsonl").open("a") as file:
        file.write('{"key": "5-0", "presence": [0.1')  # the kill came in the middle of a line
    seen = []
    again = run(pipe, weights, suite_file, detector, tmp_path, show=lambda images, total: seen.append(images))
    assert seen[0] == 8, "what was there is not drawn again"
    assert seen[-1] == 32
    whole = json.loads((out / "report.json").read_text())
    assert again["n_images"] == whole["n_images"]
    assert again["aaad"] == pytest.approx(whole["aaad"], abs=1e-4), "batches of other sizes round otherwise"


def test_the_same_run_twice_is_the_same_file(done, pipe, weights, suite_file, detector, tmp_path):
    out, _ = done
    run(pipe, weights, suite_file, detector, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == (out / "report.json").read_bytes()


def test_another_model_does_not_go_on_in_the_same_folder(done, pipe, suite_file, detector):
    with pytest.raises(ValueError, match="holds the run of another model"):
        evaluate_model(pipe, "other", load_suite(suite_file), detector, done[0], QUICK)


@pytest.mark.parametrize("change", [{"steps": 2}, {"guidance": 1.0}, {"images": 1}, {"ceiling": False}], ids=str)
def test_options_of_the_evaluation(done, pipe, weights, suite_file, detector, tmp_path, change):
    report = run(pipe, weights, suite_file, detector, tmp_path, EvaluationConfig(**{**vars(QUICK), **change}))
    whole = done[1]
    if "ceiling" in change:
        assert report["ceiling"] is None
        assert report["aaad"] == whole["aaad"]
    else:
        assert report["aaad"] != whole["aaad"]
        assert report["n_images"] == (8 if "images" in change else 16)


def test_two_runs_are_compared(done, pipe, weights, suite_file, detector, tmp_path):
    out, report = done
    other = run(pipe, weights, suite_file, detector, tmp_path, EvaluationConfig(**{**vars(QUICK), "steps": 2}))
    values, found = compare_runs(out, tmp_path, least=2)
    assert values["items"] == 8
    known = [(a["aaad"], b["aaad"]) for a, b in zip(report["per_au"], other["per_au"], strict=True)]
    apart = [a - b for a, b in known if a is not None and b is not None]
    assert found.difference == pytest.approx(np.mean(apart), abs=1e-6)
    assert compare_runs(out, out, least=2)[1].difference == 0
    with pytest.raises(ValueError, match="holds no finished run"):
        compare_runs(out, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{}"], "1: KeyError"),
        (['{"id": "a", "kind": "x", "aus": "99B", "identities": [1], "seeds": [1]}'], "no unit 99"),
        (['{"id": "a", "kind": "x", "aus": "12", "identities": [1], "seeds": [1, 2]}'], "as many identities as seeds"),
        ([], "no items"),
    ],
)
def test_bad_suites_name_the_line(tmp_path, lines, message):
    path = tmp_path / "suite.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        load_suite(path)


def test_an_unknown_suite_is_refused():
    with pytest.raises(ValueError, match="suite 'best': one of standard"):
        load_suite("best")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(pipe, tmp_path_factory):
    """Eight PNG files that say what they show."""
    place = tmp_path_factory.mktemp("faces")
    made = pipe(list(CODES), identity=7, seed=[0] * 8)
    for number, (picture, aus) in enumerate(zip(made.images, made.aus, strict=True)):
        save_face(picture, place / f"{number}.png", {"aus": aus.format()})
    return sorted(place.glob("*.png"))


def test_files_that_we_drew_say_what_they_show(faces, detector):
    scored = score_files(entries(faces, None, None), detector, least=2, resamplings=10, permutations=3)
    assert [row["asked"] for row in scored.rows] == [resolve(AUSet.parse(code)).effective.format() for code in CODES]
    assert scored.report["n_items"] == 8
    assert scored.report["aaad"] is not None
    assert set(scored.rows[0]["units"]) == {"L12", "R12"}
    assert all(0 <= row["fit"] <= 1 for row in scored.rows)


def test_the_ceiling_is_what_exact_renders_of_the_same_scores_read(faces, detector, tmp_path):
    asked = entries(faces, None, None)
    plain, topped = (
        score_files(asked, detector, least=2, resamplings=0, permutations=0, ceiling=one).report
        for one in (False, True)
    )
    assert plain["ceiling"] is None
    assert plain["aaad"] == topped["aaad"]
    wanted = [Wanted(SuiteItem(str(n), "single", one.aus, (n,), (n,), new=False), 0) for n, one in enumerate(asked)]
    seen = detector(pictures(rendered(wanted, Camera.framed("face", 128))))
    own = AAAD(detector.columns, covered=detector.coverage, least=2, resamplings=0)
    own.update(seen.presence, [one.aus for one in asked], found=seen.found)
    assert topped["ceiling"] == own.compute().aaad
    text = [{"image": str(path), "text": "The jaw drops."} for path in faces[:2]]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, text)))
    report = score_files(manifest(path), detector, least=1, resamplings=0, permutations=0, ceiling=True).report
    assert report["n_items"] == 2


def test_scores_beside_aaad_are_in_the_report(faces, detector):
    report = score_files(entries(faces, None, None), detector, least=2, resamplings=0, permutations=0).report
    assert set(report["secondary"]) == {"item_mean", "jsd", "brier", "f1"}
    assert all(0 <= value <= 1 for value in report["secondary"].values())


def test_a_manifest_averages_the_pictures_of_an_item(faces, detector, tmp_path):
    lines = [
        {"image": str(path), "aus": "12D" if number < 4 else "4C", "item": str(number // 2)}
        for number, path in enumerate(faces)
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = score_files(manifest(path), detector, least=2, resamplings=10, permutations=3).report
    assert report["n_items"] == 4
    assert report["n_images"] == 8


def test_text_mode_reads_the_text_and_says_how_well(faces, detector, tmp_path):
    codes = ["12D", "4C", "1C+4C", "0", "12D", "4C", "12D", "L12C"]
    lines = [
        {"image": str(path), "text": describe(code).text, "aus": code if row else "9E"}
        for row, (path, code) in enumerate(zip(faces, codes, strict=True))
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = score_files(manifest(path), detector, least=2, resamplings=10, permutations=3).report
    assert report["mode"] == "text"
    assert report["parse_accuracy"] == pytest.approx(7 / 8)
    one = [{"image": str(faces[0]), "aus": "12D"}, lines[1]]
    path.write_text("\n".join(map(json.dumps, one)))
    with pytest.raises(ValueError, match="1 of 2 items have a text"):
        score_files(manifest(path), detector)


def test_unlabelled_units_are_masked_and_known_absent_ones_count(faces, detector, tmp_path):
    def rows(**more):
        path = tmp_path / "m.jsonl"
        path.write_text(json.dumps({"image": str(faces[0]), "aus": "12D+4C", **more}))
        return score_files(manifest(path), detector, world="open", least=1, resamplings=0, permutations=0).rows[0]

    assert set(rows()["units"]) == {"L12", "R12", "L4", "R4"}
    assert set(rows(unknown=["4"])["units"]) == {"L12", "R12"}
    assert rows(unknown=["4"])["not_judged"] == ["L4", "R4"]
    assert rows(absent=["15"])["fit"] != rows()["fit"]


def test_pictures_of_all_kinds_are_looked_at(faces, detector, tmp_path):
    picture = Image.open(faces[0])
    grey = np.asarray(picture.convert("L"))
    kinds = {
        "grey.png": picture.convert("L"),
        "alpha.png": picture.convert("RGBA"),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "cmyk.jpg": picture.convert("CMYK"),
        "palette.png": picture.quantize(32),
        "huge.png": picture.resize((3000, 3000)),
        "wide.png": picture.resize((90, 64)),
    }
    for name, one in kinds.items():
        one.save(tmp_path / name)
    scored = score_files(entries([tmp_path / name for name in kinds], "12D", None), detector, least=1, resamplings=0)
    assert scored.report["fail_rate"] == 0
    assert scored.report["failures"] == []


def test_a_file_that_cannot_be_read_counts_as_a_face_that_is_not_there(faces, detector, tmp_path):
    (tmp_path / "broken.png").write_bytes(faces[0].read_bytes()[:300])
    scored = score_files(entries([faces[0], tmp_path / "broken.png"], "12D", None), detector, least=1, resamplings=0)
    assert scored.report["fail_rate"] == 0.5
    assert scored.report["chance"] == 0.25
    assert scored.rows[1]["fit"] == 0
    assert "damaged or cut off" in scored.report["failures"][0]["why"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png"}', "image and aus or text are needed"),
        ('{"image": "a.png", "aus": "12", "mood": "sad"}', "mood"),
        ('{"image": "a.png", "aus": "99"}', "no unit 99"),
        ("nonsense", "m.jsonl:1"),
    ],
)
def test_bad_manifests_name_the_line(tmp_path, line, message):
    path = tmp_path / "m.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        manifest(path)


# --- the command line ------------------------------------------------------------------------------------------------


def test_score_on_the_command_line(faces, weights, tmp_path, capsys):
    detector = ["--detector", str(weights / "evaluation_estimator")]
    out = tmp_path / "report.json"
    files = [str(path) for path in faces]
    assert main(["score", *files, *detector, "--least", "2", "--resamplings", "20", "-o", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"]["aaad"] == json.loads(out.read_text())["aaad"]
    worlds = []
    for more in ([], ["--world", "closed"]):
        assert main(["score", files[0], "--text", describe("12D").text, *detector, *more, "--json"]) == 0
        worlds.append(json.loads(capsys.readouterr().out)["report"]["world"])
    assert worlds == ["open", "closed"]
    assert main(["score", files[0], "--aus", "12D", *detector]) == 0
    shown = capsys.readouterr().out
    assert "12D" in shown
    assert "AAAD" not in shown, "one face has no AAAD"
    assert main(["score", *files, *detector, "--least", "2", "--resamplings", "20"]) == 0
    assert "shuffled texts" in capsys.readouterr().out
    assert main(["score", files[0], "--aus", "12D", *detector, "--detector-weights", "mine.pt"]) == 1
    assert "leave 'mine.pt' out" in capsys.readouterr().err


def test_evaluate_and_compare_on_the_command_line(weights, suite_file, tmp_path, capsys):
    call = ["evaluate", str(weights / "default"), "--suite", str(suite_file), "--least", "2", "--resamplings", "20"]
    call += ["--detector", str(weights / "evaluation_estimator")]
    for name, steps, gate in (("a", "1", "0"), ("b", "2", "1")):
        assert main([*call, "--steps", steps, "--gate", gate, "-o", str(tmp_path / name)]) == 0
    gates = [json.loads((tmp_path / name / "report.json").read_text())["detectors"][0]["au_gate"] for name in "ab"]
    assert not gates[0]
    assert any("presence does not rise with the level" in why for why in gates[1].values()), "weights are random"
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 5, "three plots and two sheets are inside"
    assert "AAAD" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--least", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["items"] == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["score"], "give pictures, or --manifest"),
        (["score", "a.png", "--aus", "12", "--text", "x"], "give --aus or --text, not both"),
        (["score", "a.png", "--aus", "12", "--detector", "magic"], "magic"),
        (["evaluate", "--suite", "best"], "suite 'best'"),
        (["compare", "a", "b"], "a holds no finished run"),
    ],
)
def test_bad_calls_are_refused(call, message, capsys):
    assert main(call) == 1
    assert message in capsys.readouterr().err
