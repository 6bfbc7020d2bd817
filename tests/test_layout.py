"""The rules of the layout that a machine can check: import edges, sizes, packaging, the root shim."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGES = ("auface_diffusers", "comfyui_auface", "train_lora")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TABLES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.toml"))

MAY_IMPORT = {  # part of the library: the other parts it may import
    "facs": set(),
    "anatomy": {"facs"},
    "models": {"facs", "anatomy"},
    "schedulers": set(),
    "pipelines": {"facs", "anatomy", "models", "schedulers", "pictures"},
    "metrics": {"facs", "anatomy", "models", "pictures"},
    "evaluation": {"facs", "anatomy", "models", "pipelines", "metrics", "pictures", "face_file"},
}
FACS_MAY_IMPORT = sys.stdlib_module_names | {"auface_diffusers", "tomli", "tomllib"}  # 3.10 has no tomllib
MAX_FILE, MAX_FUNCTION = 400, 60  # lines
COMFYUI_BRINGS = {"numpy", "pillow", "safetensors", "torch", "transformers"}


def relative(path):
    return path.relative_to(ROOT).as_posix()


each_file = pytest.mark.parametrize("path", FILES, ids=relative)


def nodes(path, *kinds):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]


def imports(path):
    """Every dotted name that a file imports, names inside functions and `if TYPE_CHECKING` included."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden_imports(path):
    package, *inside = relative(path).removesuffix(".py").split("/")
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top in PACKAGES and top not in (package, "auface_diffusers"):
            yield name
        elif package == "auface_diffusers" and inside[0] in MAY_IMPORT:
            part = rest.split(".")[0]
            if top == "auface_diffusers" and part not in MAY_IMPORT[inside[0]] | {inside[0], "__version__"}:
                yield name
            if inside[0] == "facs" and top not in FACS_MAY_IMPORT:
                yield name


@each_file
def test_imports_go_one_way(path):
    assert not list(forbidden_imports(path))


@each_file
def test_imports_are_absolute(path):
    assert not [f"line {node.lineno}" for node in nodes(path, ast.ImportFrom) if node.level]


def test_every_part_of_the_library_has_its_edges_declared():
    library = ROOT / "auface_diffusers"
    parts = {path.relative_to(library).parts[0] for path in FILES if path.is_relative_to(library)}
    assert {part for part in parts if not part.endswith(".py")} <= MAY_IMPORT.keys()


def test_facs_loads_no_heavy_package():
    code = "import sys, auface_diffusers.facs; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(run_python(code, cwd=ROOT).split())
    assert not loaded & {"torch", "numpy", "PIL", "diffusers", "transformers", "accelerate", "peft", "rich"}


@each_file
def test_files_and_functions_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    functions = nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
    long = {f.name: n for f in functions if (n := f.end_lineno - f.lineno + 1) > MAX_FUNCTION}
    assert len(lines) <= MAX_FILE
    assert not long


@each_file
def test_only_the_command_line_prints(path):
    if relative(path) != "auface_diffusers/cli.py":
        calls = [node for node in nodes(path, ast.Call) if isinstance(node.func, ast.Name)]
        assert not [f"line {node.lineno}" for node in calls if node.func.id == "print"]


@each_file
def test_a_broad_except_says_why(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for handler in nodes(path, ast.ExceptHandler):
        line = lines[handler.lineno - 1]
        if handler.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(handler.type)):
            assert re.search(r":\s*# (?!noqa)\w", line), f"line {handler.lineno}: no reason"


@each_file
def test_only_the_root_shim_touches_the_import_path(path):
    uses = [node for node in nodes(path, ast.Attribute) if ast.unparse(node) == "sys.path"]
    assert not [f"line {node.lineno}" for node in uses]


@pytest.mark.parametrize("path", TABLES, ids=relative)
def test_shipped_toml_is_readable(path):
    assert tomllib.loads(path.read_text(encoding="utf-8"))


def test_requirements_are_what_comfyui_lacks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in project["dependencies"] if re.split("[>;]", line)[0] not in COMFYUI_BRINGS]
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_no_dependency_pins_torch_or_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch" in project["dependencies"]
    assert not [line for line in project["dependencies"] if re.search(r"==|~=|<", line.split(";")[0])]


def run_python(code, *options, cwd):
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


SHIM = f"""# as ComfyUI loads a custom node: under a module name made from its path
import importlib.util, sys
before = list(sys.path)
name, file = {str(ROOT).replace(".", "_x_")!r}, {str(ROOT / "__init__.py")!r}
spec = importlib.util.spec_from_file_location(name, file)
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert not hasattr(module, "NODE_CLASS_MAPPINGS") and callable(module.comfy_entrypoint)
assert sys.modules["comfyui_auface"] and "torch" not in sys.modules
print(sys.path[len(before):], sys.path[: len(before)] == before)
"""


def test_shim_loads_a_clone_that_is_not_installed(tmp_path):
    assert run_python(SHIM, "-I", "-S", cwd=tmp_path).strip() == f"{[str(ROOT)]} True"  # -S: no site-packages


def test_shim_leaves_the_path_alone_when_the_library_is_importable():
    assert run_python(SHIM, cwd=ROOT).strip() == "[] True"  # -c puts the working folder on the path


def test_shim_does_nothing_outside_a_package(tmp_path):
    subprocess.run([sys.executable, "-I", "-S", str(ROOT / "__init__.py")], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    found = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    wanted = {relative(path) for path in found if "__pycache__" not in path.parts}
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert wanted <= set(wheel.namelist())
