"""The picture of the head beside the sliders: a route of ComfyUI's server that web/js/auface_face.js asks.

``POST /auface/preview`` takes JSON: ``levels`` (0..5 by slider id), ``link_sides`` (a truth value), ``size`` (pixels).
It answers with a WebP image and the codes in the header X-AUFace-Codes, or with status 400 and a line of text.
The nodes need none of this: without the route the page says so, and the sliders work.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from auface_diffusers.facs import AUSet
from auface_diffusers.facs.levels import MAX_LEVEL
from comfyui_auface import drawing, sliders
from comfyui_auface.expression import Expression

logger = logging.getLogger("auface")

PATH = "/auface/preview"
SIZES = (64, 512)
"""Smallest and largest height and width of a picture: what a page can make the server do is small."""
PERSON = 1
"""Identity of the head, that of AUFace Head Preview."""
_worker = ThreadPoolExecutor(1, "auface-preview")  # one picture at a time; the server's own thread never waits


def add_route() -> bool:
    """Let ComfyUI's server draw previews. Returns whether it does; without a server nothing happens."""
    try:
        from aiohttp import web
        from server import PromptServer

        routes = PromptServer.instance.routes
    except (ImportError, AttributeError) as error:
        logger.info("AUFace: no preview beside the sliders: %s", error)
        return False
    if any(getattr(route, "path", None) == PATH for route in routes):  # a second copy of the pack
        return True

    async def preview(request: web.Request) -> web.Response:
        try:
            aus, size = read(await request.json())
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        picture = await asyncio.get_running_loop().run_in_executor(_worker, draw, aus, size)
        headers = {"X-AUFace-Codes": aus.format(), "Cache-Control": "no-store"}
        return web.Response(body=picture, content_type="image/webp", headers=headers)

    routes.post(PATH)(preview)
    return True


def read(wanted: Any) -> tuple[AUSet, int]:
    """The score and the size that a request asks for.

    Raises:
        ValueError: names what is missing or out of range.
    """
    if not isinstance(wanted, Mapping) or not isinstance(wanted.get("levels"), Mapping):
        raise ValueError('send {"levels": {slider: 0..5}, "link_sides": true or false, "size": pixels}')
    size, link, levels = wanted.get("size", 256), wanted.get("link_sides", True), wanted["levels"]
    if type(size) is not int or not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size {size!r}: give a whole number in {SIZES[0]}..{SIZES[1]}")
    if type(link) is not bool:
        raise ValueError(f"link_sides {link!r}: give true or false")
    ids = [one.id for one in sliders.sliders()]
    unknown = sorted(set(levels) - set(ids))
    if unknown:
        raise ValueError(f"levels has no slider {unknown[0]!r}; there are {', '.join(ids)}")
    for id, level in levels.items():
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 <= level <= MAX_LEVEL:
            raise ValueError(f"levels: {id} is {level!r}: give a number in 0..{MAX_LEVEL}")
    return sliders.read({id: levels.get(id, 0.0) for id in ids}, link), size


def draw(aus: AUSet, size: int) -> bytes:
    """A head with this score, as WebP (size, size)."""
    from PIL import Image

    scores = drawing.shown(Expression((aus,)))
    image = next(drawing.draw_heads(scores, identity=PERSON, size=size, background="plain"))[0]
    made = io.BytesIO()
    Image.fromarray((image * 255).round().byte().numpy()).save(made, "WEBP", quality=80, method=0)
    return made.getvalue()
