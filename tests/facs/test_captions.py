"""Annotation files to texts: right, in order, resumable, and never half-written."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auface_diffusers.facs import AUSet, describe, read_text, units
from auface_diffusers.facs.captions import CHUNK, CaptionOptions, caption_file
from auface_diffusers.facs.readers import ReaderError, read_annotations


def write_openface(path, rows, *, bad=()):
    """An OpenFace 2 file of ``rows`` frames; the numbers in ``bad`` are rows cut in the middle."""
    rng = random.Random(rows)
    levels = [f"AU{int(code):02d}_r" for code in units.labelled_in("openface-r")]
    flags = [f"AU{int(code):02d}_c" for code in units.labelled_in("openface-c")]
    with path.open("w") as file:
        file.write(", ".join(["frame", "face_id", "timestamp", "confidence", "success", *levels, *flags]) + "\n")
        for frame in range(1, rows + 1):
            success = int(frame % 50 != 0)
            cells = [frame, 0, frame / 30, 0.98, success]
            cells += [round(max(0.0, min(5.0, rng.gauss(0.3, 1.2))), 2) for _ in levels]
            cells += [float(rng.random() < 0.3) for _ in flags]
            text = ", ".join(map(str, cells))
            file.write((text[: len(text) // 2] if frame in bad else text) + "\n")
    return path


def read_out(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_gets_its_text(tmp_path):
    path = write_openface(tmp_path / "of.csv", 120)
    report = caption_file(path, tmp_path / "out.jsonl")
    rows = read_out(tmp_path / "out.jsonl")
    assert (report.rows, report.without_text, report.quarantined, report.resumed_at) == (120, 2, 0, 0)
    assert [row["frame"] for row in rows] == [str(frame) for frame in range(1, 121)]
    for row, annotation in zip(rows, read_annotations(path), strict=True):
        aus = AUSet.parse(row["aus"])
        assert aus == annotation.aus
        assert row["unknown"] == sorted(annotation.unknown)
        if row["text"] is None:
            assert int(row["frame"]) % 50 == 0
        else:
            said = describe(aus)
            assert row["text"] == said.text
            assert row["rules"] == list(dict.fromkeys(hit.id for hit in said.trace))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["of.csv", "out.jsonl"]


def test_a_real_openface_file(real_file, tmp_path):
    report = caption_file(real_file("OpenFace_Test.csv"), tmp_path / "out.jsonl")
    rows = read_out(tmp_path / "out.jsonl")
    assert report.rows == len(rows) == 100
    assert all(row["text"] for row in rows)
    assert all(read_text(row["text"]).confidence == 1 for row in rows)


def test_processes_and_cache_change_nothing(tmp_path):
    path = write_openface(tmp_path / "of.csv", 3 * CHUNK, bad={7, CHUNK + 1})
    for workers in (1, 2):  # spawned: pytest is the main module, and is not run again
        caption_file(path, tmp_path / f"{workers}.jsonl", workers=workers)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert (tmp_path / "1.jsonl.quarantine.jsonl").read_bytes() == (tmp_path / "2.jsonl.quarantine.jsonl").read_bytes()


def test_options_reach_the_text(tmp_path):
    path = write_openface(tmp_path / "of.csv", 40)
    texts = {}
    for name, options in {
        "plain": CaptionOptions(),
        "seed": CaptionOptions(seed=1),
        "other seed": CaptionOptions(seed=2),
        "compact": CaptionOptions(style="compact"),
        "coder": CaptionOptions(style="coder"),
        "threshold": CaptionOptions(threshold=3.0),
    }.items():
        caption_file(path, tmp_path / "out.jsonl", options)
        texts[name] = [row["text"] for row in read_out(tmp_path / "out.jsonl")]
    assert len({tuple(map(str, rows)) for rows in texts.values()}) == len(texts)


def test_bad_rows_go_to_the_quarantine(tmp_path):
    path = write_openface(tmp_path / "of.csv", 30, bad={5})
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[3] + "\n")  # frame 3 once more
    report = caption_file(path, tmp_path / "out.jsonl")
    bad = read_out(tmp_path / "out.jsonl.quarantine.jsonl")
    assert report.rows == 29
    assert report.quarantined == 2
    assert [(row["line"], row["reason"]) for row in bad] == [(6, "wrong number of fields"), (32, "duplicate frame")]


@pytest.mark.parametrize("cut", [0, 1, 17, CHUNK, 2 * CHUNK - 3])
def test_a_stopped_run_goes_on(tmp_path, cut):
    path = write_openface(tmp_path / "of.csv", 2 * CHUNK, bad={4})
    out = tmp_path / "out.jsonl"
    caption_file(path, out)
    whole, quarantine = out.read_bytes(), (tmp_path / "out.jsonl.quarantine.jsonl").read_bytes()

    calls = []

    def stop(rows):
        calls.append(rows)
        raise KeyboardInterrupt

    out.unlink()
    with pytest.raises(KeyboardInterrupt):
        caption_file(path, out, progress=stop)
    assert not out.exists(), "nothing half-written under the final name"
    lines = (tmp_path / "out.jsonl.part").read_bytes().splitlines(keepends=True)
    assert len(lines) == CHUNK
    rest = whole.splitlines(keepends=True)
    (tmp_path / "out.jsonl.part").write_bytes(b"".join(rest[:cut]) + rest[min(cut, len(rest) - 1)][:20])

    report = caption_file(path, out)
    assert report.resumed_at == cut
    assert out.read_bytes() == whole
    assert (tmp_path / "out.jsonl.quarantine.jsonl").read_bytes() == quarantine
    assert not list(tmp_path.glob("*.part*"))


def test_a_changed_file_or_option_starts_over(tmp_path):
    path = write_openface(tmp_path / "of.csv", 2 * CHUNK)
    out = tmp_path / "out.jsonl"

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_file(path, out, progress=stop)
    report = caption_file(path, out, CaptionOptions(style="compact"))
    assert report.resumed_at == 0
    assert all("clearly" in row["text"] or "markedly" not in row["text"] for row in read_out(out) if row["text"])


def group_members(group):
    """Processes of a group that are still running (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(its_group) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_kill_dash_nine_and_go_on(tmp_path):
    path = write_openface(tmp_path / "of.csv", 40 * CHUNK)
    out = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "auface_diffusers.cli",
        "describe",
        "--from",
        "openface",
        str(path),
        "-o",
        str(out),
    ]
    process = subprocess.Popen([*command, "--workers", "2"], start_new_session=True, stderr=subprocess.DEVNULL)
    part = tmp_path / "out.jsonl.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size > 50_000):
        time.sleep(0.01)
    process.kill()  # the workers are not killed: they must notice
    process.wait()
    for _ in range(100):
        if not group_members(process.pid):
            break
        time.sleep(0.1)
    assert group_members(process.pid) == []
    assert not out.exists()
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["resumed_at"] > 0
    caption_file(path, tmp_path / "again.jsonl")
    assert out.read_bytes() == (tmp_path / "again.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": CaptionOptions(style="prose")}, "'prose'"),
        ({"workers": 0}, "workers=0"),
        ({"options": CaptionOptions(source="openface4")}, "openface4"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    path = write_openface(tmp_path / "of.csv", 3)
    with pytest.raises(ValueError, match=message):
        caption_file(path, tmp_path / "out.jsonl", **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["of.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"frame,x,y\n1,2,3\n", "AU"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "UTF-8|binary"),
        (b"frame, AU01_r, AU01_c\n", "no rows|no annotation"),
    ],
)
def test_files_that_cannot_be_read_leave_no_output(tmp_path, content, message):
    path = tmp_path / "of.csv"
    path.write_bytes(content)
    with pytest.raises(ReaderError, match=message):
        caption_file(path, tmp_path / "out.jsonl", CaptionOptions(source="openface"))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("out", ["", "-", "folder", "of.csv", "no/folder/out.jsonl", "/dev/null"])
def test_outputs_that_would_destroy_something_are_refused(tmp_path, out, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    path = write_openface(tmp_path / "of.csv", 3)
    before = path.read_bytes()
    with pytest.raises(ReaderError, match="output"):
        caption_file("of.csv", out)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "of.csv"]


def test_a_failed_run_leaves_what_was_there(tmp_path):
    good = write_openface(tmp_path / "of.csv", 3, bad={2})
    out = tmp_path / "out.jsonl"
    caption_file(good, out)
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"\x89PNG\0")
    with pytest.raises(ReaderError):
        caption_file(bad, out, CaptionOptions(source="openface"))
    bad.unlink()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == kept
    caption_file(write_openface(tmp_path / "of.csv", 3), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["of.csv", "out.jsonl"], "nothing to quarantine any more"


def test_a_second_run_to_the_same_output_is_refused(tmp_path):
    path = write_openface(tmp_path / "of.csv", CHUNK + 1)
    out = tmp_path / "out.jsonl"
    tried = []

    def second(rows):
        if rows == CHUNK:
            with pytest.raises(ReaderError, match="another run is writing"):
                caption_file(path, out)
            tried.append(rows)

    assert caption_file(path, out, progress=second).rows == CHUNK + 1
    assert tried == [CHUNK]


def test_a_changed_file_in_a_folder_starts_over(tmp_path):
    labels = tmp_path / "ActionUnit_Labels" / "SN001"
    labels.mkdir(parents=True)
    for code in units.labelled_in("disfa"):
        (labels / f"SN001_au{code}.txt").write_text("".join(f"{n},{2 * (code == '12')}\n" for n in range(2 * CHUNK)))
    out = tmp_path / "out.jsonl"

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_file(labels.parent, out, CaptionOptions(seed=1), progress=stop)
    (labels / "SN001_au12.txt").write_text("".join(f"{n},4\n" for n in range(2 * CHUNK)))
    report = caption_file(labels.parent, out, CaptionOptions(seed=1))
    rows = read_out(out)
    assert report.resumed_at == 0
    assert {row["aus"] for row in rows} == {"12D"}
    assert len({row["text"] for row in rows}) > 20, "a seed varies equal rows of joined files"


def test_a_neutral_row_has_a_text(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("frame,aus\n1,0\n2,12C\n")
    report = caption_file(path, tmp_path / "out.jsonl")
    assert report.without_text == 0
    assert read_out(tmp_path / "out.jsonl")[0]["text"] == describe("0").text
    again = caption_file(tmp_path / "out.jsonl", tmp_path / "again.jsonl", CaptionOptions(source="jsonl"))
    assert (again.rows, again.without_text) == (2, 0)


def test_a_missing_file_and_a_missing_folder(tmp_path):
    with pytest.raises((ReaderError, OSError), match="missing.csv"):
        caption_file(tmp_path / "missing.csv", tmp_path / "out.jsonl")
    path = write_openface(tmp_path / "of.csv", 3)
    with pytest.raises(ReaderError, match="cannot be written"):
        caption_file(path, tmp_path / "no" / "folder" / "out.jsonl")


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    import tracemalloc

    peaks = []
    for rows in (5_000, 50_000):
        path = write_openface(tmp_path / f"{rows}.csv", rows)
        tracemalloc.start()
        caption_file(path, tmp_path / "out.jsonl", CaptionOptions(seed=1), workers=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
