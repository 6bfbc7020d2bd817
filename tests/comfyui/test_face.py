"""The face on AUFace Sliders in a real browser: web/js/auface_face.js and the route behind it, preview.py."""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
from browser import Page
from test_page import has_vue_nodes, server  # noqa: F401 (a fixture: one server for the tests of this file)

from comfyui_auface import sliders

pytestmark = pytest.mark.slow
SCRIPT = "**/auface_face.js*"
ROUTE = "**/auface/preview"


def workflow(**levels):
    """A workflow with the node alone, as it was saved before there was a face."""
    ids = [one.id for one in sliders.sliders()]
    values = [levels.pop("link_sides", True), *(levels.get(id, 0) for id in ids)]
    node = {"id": 1, "type": "AUFaceSliders", "pos": [60, 60], "size": [400, 1060], "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": values}
    whole = {"last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "groups": [], "config": {}}
    return {**whole, "extra": {"ds": {"scale": 1.0, "offset": [200, 0]}}, "version": 0.4}


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def mode(request, server):  # noqa: F811 (the fixture)
    if request.param != "classic" and not has_vue_nodes(server):
        pytest.skip("this version of ComfyUI has no Nodes 2.0")
    return {"server": server, "vue": request.param != "classic"}


@pytest.fixture(scope="module")
def opened(mode):
    with Page(**mode) as page:
        yield page


@pytest.fixture
def page(opened):
    opened.load(workflow())
    opened.wait("() => document.querySelector('.auface-side img')?.naturalWidth > 0")
    yield opened
    assert not opened.errors


def levels(page):
    """What the prompt has, but for the zeros."""
    return {id: value for id, value in page.prompt()["1"]["inputs"].items() if value and id != "link_sides"}


def part(page, name):
    return page.page.locator(f"[data-part='{name}']")


def drag(page, name, pixels):
    """Pull a part of the face; up is above 0."""
    box = part(page, name).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = page.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x, y - pixels / 2, steps=3)
    mouse.move(x, y - pixels, steps=3)
    mouse.up()


def set_slider(page, id, value):
    page.run("([id, value]) => { app.graph.nodes[0].widgets.find(one => one.name === id).value = value }", [id, value])


def wait_for_codes(page, codes):
    """Wait for the picture of these codes, and return its pixels as the page has them."""
    page.wait("codes => document.querySelector('.auface-note').textContent === codes", codes)
    data = page.run(
        """async () => {
          const image = document.querySelector('.auface-side img')
          await image.decode()
          const canvas = document.createElement('canvas')
          Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight })
          canvas.getContext('2d').drawImage(image, 0, 0)
          return canvas.toDataURL('image/png').split(',')[1]
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=float)


def test_a_click_steps_the_level_and_the_picture_follows(page):
    calm = wait_for_codes(page, "0")
    assert calm.shape == (256, 256, 3)
    part(page, "mouth corner, left").click()
    assert levels(page) == {"AU12_left": 1}
    part(page, "mouth corner, right").click()  # linked: the same slider
    assert levels(page) == {"AU12_left": 2}
    assert np.abs(wait_for_codes(page, "12B") - calm).mean() > 0.05
    for _ in range(3):
        part(page, "mouth corner, left").click()
    assert levels(page) == {"AU12_left": 5}
    part(page, "mouth corner, left").click()
    assert levels(page) == {}
    part(page, "mouth corner, left").click(modifiers=["Shift"])
    assert levels(page) == {"AU15_left": 1}


def test_a_drag_goes_up_and_down_through_zero(page):
    drag(page, "inner brow, right", 25)
    found = levels(page)
    assert found.keys() == {"AU1_left"}
    assert 1 < found["AU1_left"] < 5
    drag(page, "inner brow, left", -200)
    assert levels(page) == {"AU4_left": 5}
    drag(page, "chin", 400)
    assert levels(page) == {"AU4_left": 5, "AU17": 5}


def test_sides_are_the_persons_and_apart_when_they_are_not_linked(page):
    set_slider(page, "link_sides", False)
    part(page, "mouth corner, right").click()
    assert levels(page) == {"AU12_right": 1}
    left, right = (part(page, f"mouth corner, {side}").bounding_box()["x"] for side in ("left", "right"))
    assert left > right  # the person looks at us
    wait_for_codes(page, "R12A")


def test_keys_and_buttons_work_too(page):
    part(page, "lips").focus()
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("ArrowUp")
    assert levels(page) == {"AU18": 2}
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    assert levels(page) == {"AU18": 2}
    page.page.locator("[data-unit='28']").click()
    assert levels(page) == {"AU18": 2, "AU28": 1}
    set_slider(page, "AU12_right", 3)  # which does nothing while the sides are linked, but is a value
    page.page.locator(".auface-reset").click()
    assert levels(page) == {}


def test_a_slider_that_moves_moves_the_face(page):
    dull = page.run("() => getComputedStyle(document.querySelector(`[data-part='chin']`)).fill")
    set_slider(page, "AU26", 4)
    wait_for_codes(page, "26D")
    assert page.run("() => getComputedStyle(document.querySelector(`[data-part='chin']`)).fill") != dull


def test_every_slider_is_on_the_face(page):
    found = set()
    for one in page.page.locator("[data-part]").all():
        one.click()
        found |= set(page.run("() => [...document.querySelectorAll('[data-unit]')].map(one => one.dataset.unit)"))
    assert found == set(sliders.CODES)


def test_what_is_saved_is_the_same_with_and_without_the_face(mode):
    old = workflow(link_sides=False, AU1_right=2.5, AU12_left=4, AU27=1)
    seen = {}
    for name, blocked in (("with", ()), ("without", (SCRIPT,))):
        with Page(**mode, blocked=blocked) as page:
            page.load(old)
            if not blocked:
                page.wait("() => document.querySelector('[data-part]')")
            assert bool(page.run("() => !!document.querySelector('[data-part]')")) != bool(blocked)
            seen[name] = page.saved()["nodes"][0], page.prompt()
            page.load(page.saved())
            assert page.saved()["nodes"][0]["widgets_values"] == old["nodes"][0]["widgets_values"]
    for key in ("widgets_values", "widgets_values_named", "inputs", "outputs", "properties"):
        assert seen["with"][0].get(key) == seen["without"][0].get(key), key
    assert seen["with"][0]["widgets_values"] == old["nodes"][0]["widgets_values"]
    assert seen["with"][1] == seen["without"][1]


def test_a_copy_of_the_node_has_its_own_face(page):
    set_slider(page, "AU12_left", 3)
    page.run("() => { const one = app.graph.nodes[0].clone(); one.pos = [700, 60]; app.graph.add(one) }")
    page.wait("() => document.querySelectorAll('.auface-face').length === 2")
    page.run("() => { app.graph.nodes[1].widgets.find(one => one.name === 'AU26').value = 2 }")
    nodes = page.prompt()
    values = [{id: v for id, v in nodes[key]["inputs"].items() if v and id != "link_sides"} for key in sorted(nodes)]
    assert values == [{"AU12_left": 3}, {"AU12_left": 3, "AU26": 2}]


def test_without_the_route_the_face_says_so_and_the_sliders_work(mode):
    with Page(**mode, blocked=(ROUTE,)) as page:
        page.load(workflow())
        page.wait("() => document.querySelector('.auface-note')?.textContent.includes('sliders work all the same')")
        part(page, "nose, left").click()
        assert levels(page) == {"AU9_left": 1}


def test_the_face_speaks_the_language_of_the_page(mode):
    with Page(**mode, language="fr") as page:
        page.load(workflow())
        spot = part(page, "mouth corner, left")
        assert spot.get_attribute("aria-label") == "coin de la bouche, gauche"
        page.wait("() => document.querySelector(`[data-part='chin'] title`)?.textContent.includes('Glisser')")
        assert page.run("() => document.querySelector('.auface-reset').textContent") == "Réinitialiser"
        spot.click()
        assert levels(page) == {"AU12_left": 1}
        assert not page.errors


def test_the_route_says_what_is_wrong(server):  # noqa: F811 (the fixture)
    for wanted, said in (
        ({"levels": {"AU12_left": 9}}, b"levels: AU12_left is 9: give a number in 0..5"),
        ({"levels": {"AU99": 1}}, b"levels has no slider 'AU99'; there are AU1_left"),
        ({"levels": {}, "size": 4000}, b"size 4000: give a whole number in 64..512"),
        ({"levels": {}, "link_sides": "yes"}, b"link_sides 'yes': give true or false"),
        ([], b'send {"levels"'),
    ):
        status, body = real_comfyui.request(server.address, "/auface/preview", wanted)
        assert status == 400
        assert body.startswith(said), body
    status, body = real_comfyui.request(server.address, "/auface/preview", {"levels": {"AU12_left": 5}, "size": 64})
    assert status == 200
    assert Image.open(io.BytesIO(body)).size == (64, 64)
