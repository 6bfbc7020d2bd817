// A face on the node AUFace Sliders: drag a part of it up or down, or click it, and the sliders follow; beside it, the
// head with the levels of the moment. It is an extra: it holds no value, is not saved, and the node works without it.

import { app } from "../../../scripts/app.js"
import { api } from "../../../scripts/api.js"

const NODE = "AUFaceSliders"
const NAME = "auface.face"
const TOP = 5 // the highest level, E
const LETTERS = ["0", "A", "B", "C", "D", "E"]
const PIXELS_A_LEVEL = 14 // of a drag
const PREVIEW = 256
const HEIGHT = 300
const SVG = "http://www.w3.org/2000/svg"

// Parts of the face: what raising does, what lowering does, what else the part can do. Of a pair, the drawing is that
// on the person's right, which is the left of the picture; the other is its mirror image.
const PARTS = [
  { id: "outer brow", pair: true, up: "2", down: "4", more: [], path: "M42 83 Q50 72 66 69 L67 77 Q53 80 45 88 Z" },
  { id: "inner brow", pair: true, up: "1", down: "4", more: [], path: "M66 69 Q80 67 92 74 L91 82 Q80 76 67 77 Z" },
  { id: "upper lid", pair: true, up: "5", down: "43", more: ["7"], path: "M46 103 Q64 84 86 104 Q66 96 46 103 Z" },
  { id: "lower lid", pair: true, up: "7", down: null, more: ["6"], path: "M46 106 Q66 122 86 107 Q66 113 46 106 Z" },
  { id: "cheek", pair: true, up: "6", down: null, more: ["13"], path: "M40 122 Q62 130 76 126 Q74 146 58 152 Q42 146 40 122 Z" },
  { id: "nose", pair: true, up: "9", down: null, more: [], path: "M99 100 L99 146 Q86 150 84 140 Q90 130 93 104 Z" },
  { id: "lip side", pair: true, up: "10", down: "16", more: ["11"], path: "M80 152 Q90 150 94 154 L92 165 Q82 167 74 170 Q74 158 80 152 Z" },
  { id: "mouth corner", pair: true, up: "12", down: "15", more: ["14", "20", "13"], path: "M66 168 Q73 164 76 172 Q78 180 72 184 Q60 182 66 168 Z" },
  { id: "lips", pair: false, up: "18", down: "24", more: ["22", "23", "28", "25"], path: "M78 174 Q92 164 100 169 Q108 164 122 174 Q110 188 100 188 Q90 188 78 174 Z" },
  { id: "chin", pair: false, up: "17", down: "26", more: ["27", "25"], path: "M82 200 Q100 192 118 200 Q118 222 100 226 Q82 222 82 200 Z" },
]
// English to the page's language, once `loadWords` is done.
let words = {}
const OUTLINE =
  "M30 96 Q26 24 100 22 Q174 24 170 96 Q172 150 150 196 Q126 236 100 238 Q74 236 50 196 Q28 150 30 96 Z"

function say(english, values = {}) {
  return (words[english] ?? english).replace(/\{(\w+)\}/g, (_, name) => values[name])
}

async function loadWords() {
  try {
    const locale = app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? "en"
    const all = await (await api.fetchApi("/i18n")).json() // what ComfyUI has read from the folders locales
    words = all[locale]?.auface?.faceWidget ?? {} // of locales/*/main.json
  } catch (error) {
    console.warn("AUFace: the face beside the sliders stays English:", error)
  }
}

function make(parent, kind, attributes = {}, text = "") {
  const element = kind.startsWith("svg:")
    ? document.createElementNS(SVG, kind.slice(4))
    : document.createElement(kind)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  if (text) element.textContent = text
  parent?.append(element)
  return element
}

// The sliders of a node: levels by action unit and side, as the node itself reads them.
class Sliders {
  constructor(node) {
    this.node = node
  }

  widget(id) {
    return this.node.widgets?.find((one) => one.name === id)
  }

  get linked() {
    return this.widget("link_sides")?.value === true
  }

  // The slider that a unit's level comes from on one side of the face ("left", "right", or "" where it has no sides).
  of(code, side) {
    return this.widget(side ? `AU${code}_${this.linked ? "left" : side}` : `AU${code}`) ?? this.widget(`AU${code}`)
  }

  level(code, side) {
    return code ? Number(this.of(code, side)?.value ?? 0) : 0
  }

  set(code, side, level) {
    if (code) this.put(this.of(code, side), level)
  }

  put(widget, level) {
    const value = Math.round(Math.min(TOP, Math.max(0, level)) * 10) / 10
    if (!widget || widget.value === value) return
    widget.value = value
    widget.callback?.(value, app.canvas, this.node)
    this.node.setDirtyCanvas?.(true, true)
  }

  all() {
    return this.node.widgets.filter((one) => /^AU\d+(_left|_right)?$/.test(one.name))
  }

  // What the preview needs: what the server's node would get.
  values() {
    return { link_sides: this.linked, levels: Object.fromEntries(this.all().map((one) => [one.name, one.value])) }
  }
}

// Asks for a picture of the head: one request at a time, and the last state of the sliders always wins.
class Preview {
  constructor(image, note) {
    Object.assign(this, { image, note, busy: false, waiting: null })
  }

  show(values) {
    this.waiting = JSON.stringify({ ...values, size: PREVIEW })
    if (!this.busy) this.ask()
  }

  async ask() {
    this.busy = true
    while (this.waiting) {
      const body = this.waiting
      this.waiting = null
      try {
        const answer = await api.fetchApi("/auface/preview", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body,
        })
        if (!answer.ok) throw new Error((await answer.text()) || `status ${answer.status}`)
        this.put(await answer.blob(), answer.headers.get("X-AUFace-Codes"))
      } catch (error) {
        this.note.textContent = say("No preview: {why}. The sliders work all the same.", { why: error.message })
        this.image.style.visibility = "hidden"
      }
    }
    this.busy = false
  }

  put(blob, codes) {
    const old = this.image.src
    this.image.src = URL.createObjectURL(blob)
    this.image.style.visibility = "visible"
    this.note.textContent = codes ?? ""
    if (old.startsWith("blob:")) URL.revokeObjectURL(old)
  }
}

class Face {
  constructor(node) {
    this.sliders = new Sliders(node)
    this.element = make(null, "div", { class: "auface-face" })
    this.drawing = make(this.element, "svg:svg", { viewBox: "0 0 200 250", role: "group", "aria-label": say("Face") })
    const side = make(this.element, "div", { class: "auface-side" })
    const image = make(side, "img", { alt: say("Head with these levels"), draggable: "false" })
    const note = make(side, "div", { class: "auface-note" })
    this.chips = make(this.element, "div", { class: "auface-chips" })
    this.preview = new Preview(image, note)
    this.draw()
    this.choose(this.spots.find((one) => one.part.id === "mouth corner"))
    for (const kind of ["pointerdown", "mousedown", "dblclick"]) {
      this.element.addEventListener(kind, (event) => event.stopPropagation()) // the node is not to be moved
    }
    this.seen = ""
    this.timer = setInterval(() => this.refresh(), 100) // undo, presets and other scripts change sliders silently
  }

  draw() {
    make(this.drawing, "svg:path", { d: OUTLINE, class: "auface-outline" })
    for (const x of [66, 134]) make(this.drawing, "svg:ellipse", { cx: x, cy: 105, rx: 17, ry: 7, class: "auface-eye" })
    for (const x of [66, 134]) make(this.drawing, "svg:circle", { cx: x, cy: 105, r: 5.5, class: "auface-iris" })
    make(this.drawing, "svg:text", { x: 4, y: 14 }, "R")
    make(this.drawing, "svg:text", { x: 187, y: 14 }, "L")
    this.spots = PARTS.flatMap((part) => (part.pair ? ["right", "left"] : [""]).map((side) => this.spot(part, side)))
  }

  spot(part, side) {
    const mirror = side === "left" ? { transform: "translate(200 0) scale(-1 1)" } : {}
    const name = side ? `${part.id}, ${side}` : part.id
    const label = [part.id, side].filter(Boolean).map((word) => say(word)).join(", ")
    const about = { class: "auface-part", tabindex: "0", role: "button", "aria-label": label, "data-part": name }
    const shape = make(this.drawing, "svg:path", { d: part.path, ...about, ...mirror })
    const spot = { part, side, shape, tip: make(shape, "svg:title") }
    shape.addEventListener("pointerdown", (event) => this.drag(event, spot))
    shape.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 1, ArrowDown: -1 }[event.key]
      if (!step && event.key !== "Enter" && event.key !== " ") return
      event.preventDefault()
      event.stopPropagation()
      this.choose(spot)
      if (step) this.pull(spot, this.pulled(spot) + step)
      else this.step(part.up, side)
    })
    return spot
  }

  // How far a part is pulled: above 0 its upper unit acts, below 0 its lower one.
  pulled({ part, side }) {
    return this.sliders.level(part.up, side) - this.sliders.level(part.down, side)
  }

  pull({ part, side }, level) {
    this.sliders.set(part.up, side, level)
    this.sliders.set(part.down, side, -level)
    this.refresh()
  }

  // To the next whole level, and from the highest back to nothing.
  step(code, side) {
    const level = this.sliders.level(code, side)
    this.sliders.set(code, side, level >= TOP ? 0 : Math.floor(level + 1))
    this.refresh()
  }

  drag(event, spot) {
    if (event.button !== 0) return
    event.preventDefault()
    spot.shape.focus?.({ preventScroll: true })
    this.choose(spot)
    const [start, from] = [event.clientY, this.pulled(spot)]
    const scale = this.drawing.getBoundingClientRect().height / 250 || 1
    let moved = false
    const move = (now) => {
      now.stopPropagation()
      moved ||= Math.abs(now.clientY - start) > 3
      if (moved) this.pull(spot, from + (start - now.clientY) / scale / PIXELS_A_LEVEL)
    }
    const stop = (now) => {
      spot.shape.removeEventListener("pointermove", move)
      spot.shape.removeEventListener("pointerup", stop)
      spot.shape.removeEventListener("pointercancel", stop)
      if (!moved && now.type === "pointerup") this.step(now.shiftKey && spot.part.down ? spot.part.down : spot.part.up, spot.side)
    }
    spot.shape.setPointerCapture?.(event.pointerId)
    spot.shape.addEventListener("pointermove", move)
    spot.shape.addEventListener("pointerup", stop)
    spot.shape.addEventListener("pointercancel", stop)
  }

  // Show buttons for every unit of a part.
  choose(spot) {
    this.chosen = spot
    const codes = [spot.part.up, spot.part.down, ...spot.part.more].filter(Boolean)
    this.chips.replaceChildren()
    for (const code of codes) {
      const chip = make(this.chips, "button", { type: "button", "data-unit": code })
      chip.addEventListener("click", () => this.step(code, spot.side))
    }
    const reset = make(this.chips, "button", { type: "button", class: "auface-reset", title: say("Every slider to 0") }, say("Reset"))
    reset.addEventListener("click", () => {
      for (const one of this.sliders.all()) this.sliders.put(one, 0)
      this.refresh()
    })
    this.seen = ""
  }

  // Bring drawing, buttons and preview up to the sliders.
  refresh() {
    if (!this.element.isConnected) return
    const values = this.sliders.values()
    const now = JSON.stringify(values)
    if (now === this.seen) return
    const stale = now !== this.pictured
    this.seen = this.pictured = now
    for (const spot of this.spots) {
      const [up, down] = [this.sliders.level(spot.part.up, spot.side), this.sliders.level(spot.part.down, spot.side)]
      const acts = Math.max(up, down, ...spot.part.more.map((code) => this.sliders.level(code, spot.side)))
      spot.shape.style.setProperty("--level", acts / TOP)
      spot.shape.classList.toggle("auface-chosen", spot === this.chosen)
      spot.tip.textContent = this.tip(spot)
    }
    for (const chip of this.chips.querySelectorAll("[data-unit]")) {
      const level = this.sliders.level(chip.dataset.unit, this.chosen.side)
      chip.textContent = `AU${chip.dataset.unit} ${Number.isInteger(level) ? LETTERS[level] : level}`
      chip.title = this.label(chip.dataset.unit, this.chosen.side)
      chip.classList.toggle("auface-on", level > 0)
    }
    if (stale) this.preview.show(values)
  }

  label(code, side) {
    const widget = this.sliders.of(code, side)
    return widget?.label ?? widget?.name ?? `AU${code}`
  }

  tip({ part, side }) {
    const lines = [say("up: {unit}", { unit: this.label(part.up, side) })]
    if (part.down) lines.push(say("down: {unit}", { unit: this.label(part.down, side) }))
    return [...lines, say(part.down ? "Drag, or click for the next level (Shift: down)" : "Drag, or click for the next level")].join("\n")
  }

  remove() {
    clearInterval(this.timer)
  }
}

const STYLE = `
.auface-face { display: grid; grid-template: minmax(0, 1fr) auto / minmax(0, 1fr) minmax(0, 1fr); gap: 4px 8px;
  width: 100%; height: 100%; min-height: 0; box-sizing: border-box; padding: 4px; overflow: hidden; user-select: none;
  font: 11px/1.3 sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border-radius: 6px; }
.auface-face svg { width: 100%; height: 100%; min-height: 0; }
.auface-face text { font-size: 13px; fill: currentColor; opacity: .6; }
.auface-outline { fill: none; stroke: currentColor; stroke-width: 1.5; opacity: .5; }
.auface-eye { fill: #fff; opacity: .85; } .auface-iris { fill: #354; }
.auface-part { --level: 0; cursor: ns-resize; touch-action: none; stroke: currentColor; stroke-width: .8; outline: none;
  fill: color-mix(in srgb, #d8301c calc(var(--level) * 100%), #d9b38c66); }
.auface-part:hover, .auface-part:focus-visible { stroke: #ffd23f; stroke-width: 2; }
.auface-part.auface-chosen { stroke: #ffd23f; stroke-width: 1.4; }
.auface-side { display: flex; flex-direction: column; min-width: 0; min-height: 0; }
.auface-side img { flex: 1; min-height: 0; max-width: 100%; object-fit: contain; border-radius: 4px; visibility: hidden; }
.auface-note { max-height: 42px; overflow: hidden; overflow-wrap: anywhere; user-select: text; }
.auface-chips { grid-column: 1 / 3; display: flex; flex-wrap: wrap; gap: 3px; }
.auface-chips button { border: 1px solid var(--border-color, #555); border-radius: 4px; padding: 2px 6px; font: inherit;
  color: inherit; background: transparent; cursor: pointer; }
.auface-chips .auface-on { background: #7a2a20; color: #fff; }
.auface-chips .auface-reset { margin-left: auto; }
`

function addFace(node) {
  if (!document.getElementById("auface-style")) make(document.head, "style", { id: "auface-style" }, STYLE)
  const face = new Face(node)
  const widget = node.addDOMWidget("auface_face", "AUFACE_FACE", face.element, {
    serialize: false, // not in what is sent to the server
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => 2 * HEIGHT,
    getValue: () => undefined,
    setValue: () => {},
  })
  widget.serialize = false // not in what is saved
  node.widgets.unshift(node.widgets.splice(node.widgets.indexOf(widget), 1)[0]) // above the long row of sliders
  const serialized = node.onSerialize
  node.onSerialize = function (saved, ...rest) {
    // The page leaves a hole at the place of a widget that is not saved, and reads values as if there were none.
    const place = this.widgets?.indexOf(widget) ?? -1
    const values = saved.widgets_values
    if (place >= 0 && Array.isArray(values) && !(place in values)) values.splice(place, 1)
    return serialized?.call(this, saved, ...rest)
  }
  const removed = node.onRemoved
  node.onRemoved = function (...rest) {
    face.remove()
    return removed?.apply(this, rest)
  }
  return face
}

// A second copy of the pack brings a second copy of this file.
if (!app.extensions?.some((one) => one.name === NAME)) {
  app.registerExtension({
    name: NAME,
    init: loadWords,
    nodeCreated(node) {
      if (node.comfyClass === NODE && node.addDOMWidget) addFace(node)
    },
  })
}
