"""A real ComfyUI for the tests: found on this machine, started without a window, spoken to as its web page does.

`make comfyui` prepares what is looked for here: checkouts ``ComfyUI*`` in ~/.cache/auface-tests, or those that
COMFYUI_DIR names (several with the path separator of the system), and an environment ``venv`` in or beside each.
"""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CACHE = Path.home() / ".cache" / "auface-tests"
MISSING = f"no ComfyUI in {CACHE}: run `make comfyui`, or set COMFYUI_DIR"
PACK = "auface-clone"
"""Folder of the pack in custom_nodes: not the name in pyproject.toml, so that nothing can depend on it."""
SHIPPED = ("__init__.py", "pyproject.toml", "auface_diffusers", "comfyui_auface", "locales", "subgraphs", "workflows")
TWINS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("api/*.json"))}
"""The workflows in API format, by name."""
DOWNLOADS = {"08_au_controlnet_sd15"}
"""Workflows of models that have to be downloaded: test_controlnet.py runs them with random weights."""
START_S, RUN_S = 600, 600  # generous: continuous integration shares its machines


def checkouts() -> list[Path]:
    """Folders of every ComfyUI to test on."""
    named = os.environ.get("COMFYUI_DIR")
    folders = [Path(one) for one in named.split(os.pathsep)] if named else sorted(CACHE.glob("ComfyUI*"))
    return [folder for folder in folders if (folder / "main.py").is_file() and python_of(folder).exists()]


def python_of(checkout: Path) -> Path:
    """The interpreter of the virtual environment in a checkout, or of the one beside it."""
    own, shared = (folder / "venv" / "bin" / "python" for folder in (checkout, checkout.parent))
    return own if own.exists() else shared


def clone(custom_nodes, name=PACK):
    """Install the pack as a clone."""
    (custom_nodes / name).mkdir(parents=True)
    for one in SHIPPED:
        if (ROOT / one).is_dir():
            shutil.copytree(ROOT / one, custom_nodes / name / one, ignore=_ignored)
        else:
            shutil.copy2(ROOT / one, custom_nodes / name / one)


def copy_folder(custom_nodes):
    """Install the small folder of a wheel, with what lies beside it in a clone, next to ``pip install auface``."""
    shutil.copytree(ROOT / "comfyui_auface", custom_nodes / "comfyui_auface", ignore=_ignored)
    for one in ("locales", "subgraphs", "workflows"):
        shutil.copytree(ROOT / one, custom_nodes / "comfyui_auface" / one)


def clone_with_second_device(custom_nodes):
    """As `clone`, on a ComfyUI whose models and pictures are not on the CPU: see second_device_node."""
    clone(custom_nodes)
    folder = custom_nodes / "second_device_node"
    shutil.copytree(ROOT / "tests" / "comfyui" / "second_device_node", folder, ignore=_ignored)
    shutil.copy2(ROOT / "tests" / "second_device.py", folder)


def hide(folder, packages):
    """A folder that hides packages from the Python that has it on its path: they are as if not installed."""
    folder.mkdir()
    lines = ["from importlib.machinery import PathFinder", "found = PathFinder.find_spec"]
    lines += ["def find_spec(name, path=None, target=None):"]
    lines += [f"    return None if name.split('.')[0] in {tuple(packages)!r} else found(name, path, target)"]
    (folder / "sitecustomize.py").write_text("\n".join([*lines, "PathFinder.find_spec = staticmethod(find_spec)", ""]))
    return folder


class Server:
    """A running ComfyUI with its own base folder; use it in a ``with``.

    Args:
        checkout: folder of ComfyUI. base: an empty folder for its input, output, models and nodes.
        install: puts the pack into the folder custom_nodes. pip: whether the library is there as if by pip.
        arguments: more of the command line. lacks: packages that are there, but shall not be found.
    """

    def __init__(self, checkout, base, install=clone, pip=False, arguments=(), lacks=()):
        self.checkout, self.base, self.install, self.pip = Path(checkout), Path(base), install, pip
        self.arguments, self.lacks = list(arguments), lacks
        self.log = self.base / "server.log"
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        (self.base / "custom_nodes").mkdir()
        self.install(self.base / "custom_nodes")
        for name in ("input", "output", "temp", "user", "models"):
            (self.base / name).mkdir(exist_ok=True)
        shutil.copy2(ROOT / "tests" / "data" / "openface_like.csv", self.base / "input")
        shutil.copy2(ROOT / "tests" / "data" / "face.png", self.base / "input" / "example.png")  # Load Image opens it
        command = [python_of(self.checkout), "main.py", "--cpu", "--port", str(self.port), "--base-directory"]
        command += [self.base, "--disable-api-nodes", "--database-url", "sqlite:///:memory:", *self.arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"PYTHONPATH": str(ROOT)} if self.pip else {}
        environment |= {"PYTHONPATH": str(hide(self.base / "hiding", self.lacks))} if self.lacks else {}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.checkout, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()

    def _wait(self):
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.5)
        raise RuntimeError(f"ComfyUI does not answer; the end of {self.log}:\n{self.text()[-4000:]}")

    def text(self) -> str:
        """What the server has written to its log so far."""
        return self.log.read_text("utf-8", "replace")

    def get(self, path) -> bytes:
        """The body of a page."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return answer.read()

    def json(self, path):
        """The body of a page that is JSON."""
        return json.loads(self.get(path))

    def post(self, path, data):
        """(status, JSON) of a request with a JSON body."""
        status, body = request(self.address, path, data)
        return status, json.loads(body or b"null")

    def run(self, prompt, client="tests", at_progress=None) -> "Run":
        """Run a workflow in API format to its end; ``at_progress`` is called when a node first shows progress."""
        with WebSocket(self.address, f"/ws?clientId={client}") as page:
            status, answer = self.post("/prompt", {"prompt": prompt, "client_id": client})
            assert status == 200, answer
            return Run(self, answer["prompt_id"], page, at_progress)

    def refusal(self, prompt) -> dict[str, list[str]]:
        """What `/prompt` says against a workflow: by node, a line an error."""
        status, answer = self.post("/prompt", {"prompt": prompt})
        assert status == 400, answer
        return {
            node: [f"{one['message']}: {one['details']}" for one in said["errors"]]
            for node, said in answer["node_errors"].items()
        }


class Run:
    """What happened while a workflow ran.

    Attributes:
        executed: ids of the nodes that ran, in order; cached: of those whose result was still there.
        outputs: what the page gets to show, by node. texts: what was written into nodes. error: of the run, or None.
        progress: messages of the bars, in order. previews: pictures that nodes showed while they ran, as files.
    """

    def __init__(self, server, prompt_id, page, at_progress=None):
        self.server, self.executed, self.cached, self.outputs, self.texts = server, [], [], {}, {}
        self.error, self.progress, self.previews = None, [], []
        end = time.monotonic() + RUN_S
        while time.monotonic() < end:
            kind, data = page.receive()
            if isinstance(kind, int):
                if kind == 3:
                    self._text(data)
                elif kind == 1:
                    self.previews.append(data[4:])  # after the number of the format
                continue
            if data.get("prompt_id", prompt_id) != prompt_id:
                continue
            # a page that comes back under its name is told the last node of before, without the prompt
            if kind == "executing" and data["node"] and "prompt_id" in data:
                self.executed.append(data["node"])
            elif kind == "execution_cached":
                self.cached = data["nodes"]
            elif kind == "progress":
                self.progress.append(data)
                if at_progress:
                    at_progress()
                    at_progress = None
            elif kind == "executed":
                self.outputs[data["node"]] = data["output"]
            elif kind in ("execution_error", "execution_interrupted"):
                self.error = data
                return
            elif kind == "execution_success":
                return
        raise RuntimeError(f"the workflow did not end; the log:\n{server.text()[-4000:]}")

    def _text(self, data):
        length = int.from_bytes(data[:4], "big")
        self.texts[data[4 : 4 + length].decode()] = data[4 + length :].decode()

    def text(self, node) -> list[str]:
        """Texts that a PreviewAny shows."""
        return list(self.outputs[node]["text"])

    def images(self, node) -> list[bytes]:
        """The files that a node shows, fetched as the page does."""
        return [
            self.server.get(f"/view?{urllib.parse.urlencode({k: one[k] for k in ('filename', 'subfolder', 'type')})}")
            for one in self.outputs[node]["images"]
        ]


class WebSocket:
    """The reading half of RFC 6455, as far as ComfyUI uses it: so that the tests need no package for it."""

    def __init__(self, address, path):
        host, port = address.split(":")
        self.stream = socket.create_connection((host, int(port)), RUN_S)
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.stream.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.file = self.stream.makefile("rb")
        assert b"101" in self.file.readline()
        while self.file.readline().strip():
            pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        self.stream.close()

    def receive(self):
        """The next message: (type, data) of a JSON one, (event number, bytes) of a binary one."""
        whole, code = b"", 0
        while True:
            first, second = self.file.read(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self.file.read(2 if length == 126 else 8), "big")
            part = self.file.read(length)
            if first & 0x0F == 8:
                raise RuntimeError("ComfyUI closed the connection")
            if first & 0x0F in (9, 10):  # ping and pong
                continue
            code = first & 0x0F or code
            whole += part
            if first & 0x80:
                break
        if code == 2:
            return int.from_bytes(whole[:4], "big"), whole[4:]
        message = json.loads(whole)
        return message["type"], message["data"]


def request(address, path, data):
    """(status, body) of a request with a JSON body."""
    wanted = urllib.request.Request(f"http://{address}{path}", json.dumps(data).encode())
    wanted.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _ignored(folder, names):
    return [name for name in names if name == "__pycache__"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
