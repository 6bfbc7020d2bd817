"""A real web page of a real ComfyUI for the tests: Debian's Chromium, driven by playwright.

Needs ``apt install chromium`` (or CHROMIUM=/path/to/chrome) and ``pip install "auface[comfyui-test]"``.
"""

import atexit
import importlib.util
import json
import os
import shutil
from functools import cache
from pathlib import Path

WAIT_MS = 300_000  # generous: continuous integration shares its machines
WINDOW = {"width": 1600, "height": 1000}
VUE_NODES = "Comfy.VueNodes.Enabled"
"""The setting that turns Nodes 2.0 on; frontends of 0.3.64's time have none."""
FIRST_WITH_VUE_NODES = (0, 8, 0)


def chromium() -> str | None:
    """Where a browser is."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing() -> str | None:
    """What has to be installed before there can be a page, or None."""
    if not importlib.util.find_spec("playwright"):
        return 'no playwright: pip install "auface[comfyui-test]"'
    return None if chromium() else "no Chromium: apt install chromium, or set CHROMIUM to a browser"


@cache
def playwright():
    """The driver, started once: a second one in the same process does not start."""
    from playwright.sync_api import sync_playwright

    started = sync_playwright().start()
    atexit.register(started.stop)
    return started


class Page:
    """ComfyUI's page in a window; use it in a ``with``.

    Args:
        server: a running `real_comfyui.Server`.
        vue: whether nodes are those of Nodes 2.0 rather than drawn on the canvas.
        blocked: addresses that the page cannot load, as patterns of playwright.
        language: of the page, as ComfyUI's setting has it.

    Attributes:
        errors: uncaught errors in scripts of this pack.
    """

    def __init__(self, server, vue=False, blocked=(), language="en"):
        self.server, self.vue, self.blocked, self.language = server, vue, blocked, language
        self.errors = []

    def __enter__(self):
        settings = {VUE_NODES: self.vue, "Comfy.TutorialCompleted": True, "Comfy.Locale": self.language}
        self.server.post("/api/settings", settings)
        arguments = ["--no-sandbox", "--use-gl=swiftshader"]
        self.browser = playwright().chromium.launch(executable_path=chromium(), args=arguments)
        self.page = self.browser.new_page(viewport=WINDOW)
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", self._note)
        for one in self.blocked:
            self.page.route(one, lambda route: route.abort())
        self.page.goto(f"http://{self.server.address}")
        self.page.wait_for_function("() => window.app?.graph?.nodes.length && window.app.extensionManager")
        return self

    def __exit__(self, *error):
        self.browser.close()

    def _note(self, error):
        if "auface" in (error.stack or "auface"):  # the page has errors of its own
            self.errors.append(f"{error}\n{error.stack}")

    def run(self, script, argument=None):
        """The value of a JavaScript function."""
        return self.page.evaluate(script, argument)

    def wait(self, script, argument=None):
        """Wait until a JavaScript function says something true."""
        self.page.wait_for_function(script, arg=argument)

    def open_template(self, pack, name):
        """Open a workflow as a user does: the template browser, the pack's category, the card."""
        self.run("() => { window.before = app.graph.nodes[0]; }")
        self.run("() => { app.extensionManager.command.execute('Comfy.BrowseTemplates'); }")
        self.page.get_by_text(pack, exact=True).last.click()  # Nodes 2.0 has it on nodes too
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.wait("() => app.graph.nodes.length && app.graph.nodes[0] !== window.before")
        self.settle()

    def load(self, workflow):
        """Open a workflow as a file dropped on the page."""
        self.run("workflow => app.loadGraphData(workflow)", workflow)
        self.settle()

    def find_node(self, name):
        """Add a node as a user does: a double click on the canvas, its name, Enter, and a click to put it there."""
        middle = WINDOW["width"] / 2, WINDOW["height"] / 2
        for _ in range(20):  # blueprints come a while after the page
            self.page.mouse.dblclick(*middle)
            self.page.wait_for_timeout(1500)
            self.page.keyboard.type(name)
            self.page.wait_for_timeout(1500)
            self.page.keyboard.press("Enter")
            self.page.wait_for_timeout(1000)
            self.page.mouse.click(*middle)
            self.page.wait_for_timeout(1000)
            if self.run("name => app.graph.nodes.some(one => one.title === name)", name):
                return
            self.page.keyboard.press("Escape")
        raise AssertionError(f"the node search does not find {name!r}")

    def settle(self):
        """Wait until everything is drawn: in Nodes 2.0, until each node has its element."""
        if self.vue:
            self.wait("() => app.graph.nodes.every(one => document.querySelector(`[data-node-id='${one.id}']`))")
        self.run("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.wait_for_timeout(500)

    def prompt(self):
        """The workflow in API format, as the page would send it: class and inputs of each node."""
        nodes = self.run("async () => (await app.graphToPrompt()).output")
        for one in nodes.values():
            del one["_meta"]
            if one["class_type"] == "PreviewAny":  # its text field is no input; frontends differ in sending it
                one["inputs"] = {id: value for id, value in one["inputs"].items() if not id.startswith("preview")}
        return nodes

    def saved(self):
        """The workflow as the page would save it."""
        return json.loads(self.run("() => JSON.stringify(app.graph.serialize())"))

    def troubles(self):
        """What a user would see as wrong: unknown nodes, nodes in red, dialogs and messages."""
        return self.run(
            """() => [
              ...app.graph.nodes.filter(one => !LiteGraph.registered_node_types[one.type])
                .map(one => `${one.type} is unknown`),
              ...app.graph.nodes.filter(one => one.has_errors).map(one => `${one.type} is red`),
              ...[...document.querySelectorAll('[role=dialog], .p-dialog, .p-toast-message')]
                .map(one => one.innerText),
            ]"""
        )

    def overlaps(self):
        """Pairs of nodes that lie on one another, titles included."""
        boxes = self.run(
            """vue => app.graph.nodes.map(one => {
              if (vue) {
                const box = document.querySelector(`[data-node-id='${one.id}']`).getBoundingClientRect()
                const k = app.canvas.ds.scale
                return [one.type + ' ' + one.id, box.x / k, box.y / k, box.width / k, box.height / k]
              }
              one.updateArea?.()
              return [one.type + ' ' + one.id, ...one.getBounding()]
            })""",
            self.vue,
        )
        return [
            (a[0], b[0])
            for i, a in enumerate(boxes)
            for b in boxes[:i]
            if all(min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k]) > 2 for k in (1, 2))
        ]

    def too_small(self):
        """Nodes that show less than all their sockets and widgets."""
        return self.run(
            """() => app.graph.nodes.map(one => [one.type + ' ' + one.id, one.size[1], one.computeSize()[1]])
              .filter(([, height, needed]) => height + 1 < needed)"""
        )

    def picture(self, path):
        """Save what is seen."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
