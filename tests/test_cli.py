"""The ``auface`` command, run as a user runs it."""

import json
import subprocess
import sys

import pytest

from auface_diffusers.cli import main
from auface_diffusers.facs import AUSet, describe, units


def run(capsys, *arguments):
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_describe(capsys):
    assert run(capsys, "describe", "1C+2C+4B+L12D") == (0, describe("1C+2C+4B+L12D").text + "\n", "")
    assert run(capsys, "describe", "12C", "--style", "compact")[1] == "clearly raised lip corners\n"
    assert run(capsys, "describe", "12C", "--seed", "4")[1] == describe("12C", seed=4).text + "\n"
    assert "happiness" in run(capsys, "describe", "6C+12C", "--emotion")[1]
    out = run(
        capsys, "describe", "12C", "--age", "40", "--gender", "woman", "--hair", "short black", "--gaze", "looking up"
    )[1]
    assert out.startswith("A portrait of a 40-year-old woman with short black hair, looking up. The lip corners")


def test_describe_json(capsys):
    _, out, _ = run(capsys, "describe", "12E+15B+24C+25B", "--json")
    data = json.loads(out)
    assert data["effective"] == "12E+15B+24C"
    assert data["aus"] == "12E+15B+24C+25B"
    assert {hit["id"] for hit in data["trace"]} >= {"F5", "S3"}
    for clause in data["clauses"]:
        assert data["text"][clause["start"] : clause["end"]] == clause["text"]


def test_explain(capsys):
    status, out, _ = run(capsys, "explain", "12E+15B+24C+25B")
    assert status == 0
    assert "F5    dominated  12E 15B" in out
    assert out.rstrip().endswith("effective: 12E+15B+24C")
    assert "no rule fires" in run(capsys, "explain", "12C")[1]
    assert json.loads(run(capsys, "explain", "24C+25B", "--json")[1])["trace"][0]["dropped"] == ["25B"]
    status, _, err = run(capsys, "explain", "51C+52C", "--strict")
    assert status == 1
    assert "X1" in err


def test_units(capsys):
    _, out, _ = run(capsys, "units")
    assert len(out.splitlines()) == 1 + len(units)
    assert "zygomaticus major" in run(capsys, "units", "12")[1]
    assert [json.loads(line)["code"] for line in run(capsys, "units", "--json")[1].splitlines()] == list(units)
    assert json.loads(run(capsys, "units", "M55", "--json")[1])["mirror"] == "M56"
    assert json.loads(run(capsys, "units", "0", "--json")[1])["name"] == "Neutral face"


def test_presets(capsys):
    assert run(capsys, "presets", "sad")[1] == "1+4+15\n"
    assert run(capsys, "presets", "sad", "--strength", "1")[1] == "1E+4E+15E\n"
    assert run(capsys, "presets", "sad", "--source", "du2014")[1] == "4+15\n"
    assert "happily surprised" in run(capsys, "presets")[1]
    entries = [json.loads(line) for line in run(capsys, "presets", "--json")[1].splitlines()]
    assert all(AUSet.parse(entry["aus"]) for entry in entries)
    assert json.loads(run(capsys, "presets", "awed", "--json")[1])["aus"] == "1+2+5+25"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["describe", "12F"], 1, "'12F' at column 1"),
        (["describe", ""], 1, "empty score"),
        (["describe", "12=7"], 1, "outside 0..5"),
        (["units", "3"], 1, "write 4"),
        (["presets", "bored"], 1, "no preset 'bored'"),
        (["describe", "--from", "openface", "nowhere.csv", "-o", "out.jsonl"], 1, "nowhere.csv"),
        (["describe"], 2, "needs a score"),
        (["describe", "--from", "openface", "x.csv"], 2, "-o OUT.jsonl"),
        (["describe", "12C", "-o", "x.jsonl", "--workers", "2"], 2, "--output, --workers goes with --from"),
        (["describe", "--from", "auto", "x.csv", "-o", "y.jsonl", "--emotion"], 2, "--emotion goes with a score"),
        (["units", "12+14"], 1, "12+14"),
    ],
)
def test_errors_say_what_is_wrong_without_a_traceback(capsys, arguments, status, message):
    got, out, err = run(capsys, *arguments)
    assert got == status
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_wrong_call_exits_with_2():
    with pytest.raises(SystemExit) as exit_:
        main(["describe", "12C", "--style", "prose"])
    assert exit_.value.code == 2


def test_sources_are_listed(capsys):
    status, out, _ = run(capsys, "describe", "--from", "?")
    assert status == 0
    assert out.splitlines()[0].startswith("bp4d")


def test_a_closed_stdout_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m auface_diffusers.cli describe 12 >&-",
        shell=True,  # noqa: S602 - the shell closes it
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_warnings_go_to_stderr(capsys):
    status, out, err = run(capsys, "describe", "82")
    assert (status, out) == (0, "The shoulders are shrugged.\n")
    assert "write 38" in err


def test_a_file(capsys, tmp_path):
    source = tmp_path / "codes.csv"
    source.write_text("frame,aus\n1,1C+2C\n2,12F\n3,L12D\n")
    out = tmp_path / "out.jsonl"
    status, stdout, err = run(capsys, "describe", "--from", "auto", str(source), "-o", str(out))
    assert (status, stdout) == (0, "")
    assert "2 rows written" in err
    assert "quarantine" in err
    assert [json.loads(line)["aus"] for line in out.read_text().splitlines()] == ["1C+2C", "L12D"]
    _, stdout, _ = run(capsys, "describe", "--from", "csv", str(source), "-o", str(out), "--json", "--style", "coder")
    assert json.loads(stdout)["quarantined"] == 1
    assert json.loads(out.read_text().splitlines()[1])["text"] == "L12D (lip corner puller, left)"


def test_no_colours_in_a_pipe_and_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "auface_diffusers.cli"]
    done = subprocess.run([*command, "explain", "12E+15B"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    head = subprocess.run(
        f"{' '.join(command)} units --json | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,  # noqa: S602 - a real pipe is what is tested
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert head.returncode == 0
    assert head.stderr == ""


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("auface 0.")
