"""Models, pipelines and training on a device that is not the CPU: see second_device.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import second_device_checks

TESTS = Path(__file__).parent
TRAINING = (
    "test_stages.py::test_alignment_learns_and_exports",
    "test_stages.py::test_estimator_learns_and_exports",
    "test_stages.py::test_the_estimator_reads_what_is_drawn",
    "test_stages.py::test_a_decoder_learns_to_read_structure_maps",
    "test_stages.py::test_generator_learns_and_exports",
    "test_adapter.py::test_every_kind_learns",
    "test_adapter.py::test_the_text_model_is_trained_if_asked",
)


def python(*arguments):
    """What a process prints that finds the helpers of the tests."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def found():
    return json.loads(python(TESTS / "second_device_checks.py").splitlines()[-1])


@pytest.mark.parametrize("name", second_device_checks.CHECKS)
def test_on_a_second_device(found, name):
    assert not found[name], found[name]


@pytest.mark.slow
def test_training_on_a_second_device():
    files = [str(TESTS / "train" / one) for one in TRAINING]
    said = python("-m", "pytest", "-q", "-p", "second_device", *files)
    assert "failed" not in said
