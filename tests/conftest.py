"""Fixtures that every test may use."""

import os

import pytest
import real_files
from hypothesis import settings

settings.register_profile("quick", max_examples=150, deadline=None)
settings.register_profile("thorough", max_examples=3000, deadline=None)  # make test-all
settings.load_profile("quick")


@pytest.fixture(scope="session")
def real_file():
    """`real_file("OpenFace_Test.csv")` is a path. Offline the test is skipped, but never in CI."""
    try:
        real_files.real_folder()
    except ConnectionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return real_files.real_file
