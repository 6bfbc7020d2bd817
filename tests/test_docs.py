"""The examples in the docstrings and in the README run and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    f"{part}.{path.stem}"
    for part in ("facs", "anatomy")
    for path in (ROOT / "auface_diffusers" / part).glob("[a-z]*.py")
)
WEIGHTS = ROOT / "auface_diffusers" / "weights" / "default" / "model_index.json"
EXAMPLES = [part.split("```")[0] for part in (ROOT / "README.md").read_text("utf-8").split("```python\n")[1:]]


# Not by --doctest-modules: with the root __init__.py it imports each module again under a second name.
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(f"auface_diffusers.{name}")).failed == 0


@pytest.mark.parametrize("code", EXAMPLES)
def test_readme_examples(code, tmp_path, monkeypatch):
    if "VQAUFacePipeline.from_default()" in code:
        if not WEIGHTS.is_file():
            pytest.skip("the embedded weights are not in this checkout")
        monkeypatch.chdir(tmp_path)  # these write files
    test = doctest.DocTestParser().get_doctest(code, {}, "README.md", None, 0)
    assert test.examples, "write it with >>> so that it can be checked"
    assert doctest.DocTestRunner().run(test).failed == 0
