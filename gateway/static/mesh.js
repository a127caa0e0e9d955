/** @file Draws the map of the mesh, and says in words what it shows. Where things lie is decided in mesh_layout.js. */

import { byId, el, setAttribute, setText, svg } from "./dom.js";
import { plural, shortId } from "./format.js";
import { layout, relaysOf } from "./mesh_layout.js";

/** @typedef {import("./types.js").Worker} Worker */
/** @typedef {import("./types.js").MeshSection} MeshSection */
/** @typedef {import("./mesh_layout.js").Placed} Placed */

const LABEL_CHARS = 14;
const NARROW_PX = 560;

/** @type {[string, string][]} */
const LEGEND = [
  ["gateway", "this gateway"],
  ["bootstrap", "bootstrap"],
  ["healthy", "healthy worker"],
  ["trial", "on trial"],
  ["cooling", "cooling down"],
  ["lost", "lost"],
];

/** @type {[string, string][]} */
const LINES = [
  ["direct", "direct"],
  ["punched", "through a hole in NAT"],
  ["relayed", "through a relay"],
  ["joined", "joined through"],
];

/**
 * @param {import("./live.js").Store} store
 * @returns {Element}
 */
export function mesh(store) {
  const picture = svg("svg", { class: "mesh", role: "img" });
  /** @type {Map<string, (worker: Worker | undefined) => void>} */
  let updates = new Map();
  /** @type {[string, Element][]} */
  let links = [];
  let drawnOf = "";

  function draw() {
    const section = store.sections.mesh;
    const width = picture.clientWidth;
    if (!section || !width) return;
    const of = `${width} ${JSON.stringify(section)}`;
    if (of === drawnOf) return;
    drawnOf = of;
    const size = { width, height: heightFor(section.nodes.length, width) };
    const placed = layout(section, size);
    setAttribute(picture, "viewBox", `0 0 ${width} ${size.height}`);
    setAttribute(picture, "height", String(size.height));
    links = placed.links.map(({ kind, to, points }) => [
      to,
      svg("path", { class: `link ${kind}`, d: `M${points.map((point) => point.map(Math.round).join(" ")).join("L")}` }),
    ]);
    const nodes = placed.nodes.map((node) => ({ id: node.id, ...drawNode(node, size.height / 2) }));
    updates = new Map(nodes.map(({ id, update }) => [id, update]));
    picture.classList.toggle("dense", section.nodes.length > 60);
    picture.replaceChildren(...links.map(([, link]) => link), ...nodes.map(({ node }) => node));
    const said = describe(section);
    setText(byId("mesh-line"), said);
    setAttribute(picture, "aria-label", `${said} The table of workers says the same in words.`);
    colour();
  }

  function colour() {
    const known = new Map((store.sections.workers?.workers ?? []).map((worker) => [worker.id, worker]));
    for (const [id, update] of updates) update(known.get(id));
    for (const [id, link] of links) link.classList.toggle("busy", (known.get(id)?.in_flight ?? 0) > 0);
  }

  store.on("mesh", draw);
  store.on("workers", colour);
  new ResizeObserver(draw).observe(picture);
  return el("div", {}, picture, legend());
}

/**
 * @param {number} nodes
 * @param {number} width
 */
function heightFor(nodes, width) {
  if (width < NARROW_PX) return nodes > 40 ? 460 : 340;
  return nodes > 80 ? 560 : nodes > 24 ? 460 : nodes > 8 ? 360 : 290;
}

/** @param {MeshSection} section */
export function describe(section) {
  const workers = section.nodes.filter(({ kind }) => kind === "worker").length;
  const bootstraps = section.nodes.filter(({ kind }) => kind === "bootstrap").length;
  const relayed = section.links.filter(({ kind }) => kind === "relayed").length;
  const behind = relayed
    ? `, ${relayed} of them through ${plural(new Set(relaysOf(section).values()).size, "relay")}`
    : "";
  return `${plural(workers, "worker")}${behind}; ${plural(bootstraps, "bootstrap")}.`;
}

/**
 * @param {Placed} placed
 * @param {number} middle
 */
function drawNode(placed, middle) {
  const { id, kind, name, x, y, r, isLabelled } = placed;
  const title = svg("title");
  const inside = svg("path", { class: "inside" });
  const outline = svg("path", { class: "outline", d: outlineOf(kind, r) });
  const label = isLabelled
    ? svg("text", { y: y < middle ? -r - 6 : r + 14, "text-anchor": "middle" }, labelOf(placed))
    : null;
  const node = svg(
    "g",
    { class: `node ${kind}`, transform: `translate(${Math.round(x)} ${Math.round(y)})` },
    title,
    outline,
    inside,
    label,
  );
  /** @param {Worker | undefined} worker */
  const update = (worker) => {
    const state = kind === "worker" ? (worker?.state ?? "unknown") : kind;
    setAttribute(node, "data-state", state);
    setAttribute(inside, "d", insideOf(state, r));
    const says = kind === "gateway" ? "this gateway" : kind === "bootstrap" ? "bootstrap" : `worker, ${state}`;
    setText(title, `${name ? `${name}, ` : ""}${id}: ${says}`);
  };
  return { node, update };
}

/** @param {Placed} placed */
function labelOf({ id, kind, name }) {
  if (kind === "gateway") return "this gateway";
  const characters = [...name];
  if (!characters.length) return shortId(id);
  return characters.length > LABEL_CHARS ? `${characters.slice(0, LABEL_CHARS - 1).join("")}\u2026` : name;
}

/**
 * A circle for workers, a square for bootstraps, a hexagon for the gateway.
 * @param {string} kind
 * @param {number} r
 */
function outlineOf(kind, r) {
  if (kind === "bootstrap") return `M${-r} ${-r}H${r}V${r}H${-r}Z`;
  if (kind !== "gateway") return circle(r);
  const corners = [0, 1, 2, 3, 4, 5].map(
    (i) => `${(r * Math.cos((i * Math.PI) / 3)).toFixed(1)} ${(r * Math.sin((i * Math.PI) / 3)).toFixed(1)}`,
  );
  return `M${corners.join("L")}Z`;
}

/**
 * What tells states apart without their colour: full, half, hollow, a cross.
 * @param {string} state
 * @param {number} r
 */
function insideOf(state, r) {
  const cross = r * 0.75;
  if (state === "healthy") return circle(r);
  if (state === "trial") return `M0 ${-r}A${r} ${r} 0 0 1 0 ${r}Z`;
  if (state === "lost") return `M${-cross} ${-cross}L${cross} ${cross}M${cross} ${-cross}L${-cross} ${cross}`;
  return "";
}

/** @param {number} r */
function circle(r) {
  return `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`;
}

function legend() {
  const marks = LEGEND.map(([state, text]) => {
    const kind = state === "gateway" || state === "bootstrap" ? state : "worker";
    const r = kind === "worker" ? 6 : 7;
    const sign = svg(
      "g",
      { class: `node ${kind}`, "data-state": state, transform: "translate(9 9)" },
      svg("path", { class: "outline", d: outlineOf(kind, r) }),
      svg("path", { class: "inside", d: insideOf(state, r) }),
    );
    return el("li", {}, svg("svg", { width: 18, height: 18, viewBox: "0 0 18 18", "aria-hidden": "true" }, sign), text);
  });
  const lines = LINES.map(([kind, text]) =>
    el(
      "li",
      {},
      svg(
        "svg",
        { width: 26, height: 18, viewBox: "0 0 26 18", "aria-hidden": "true" },
        svg("path", { class: `link ${kind}`, d: "M1 9H25" }),
      ),
      text,
    ),
  );
  return el("ul", { class: "legend muted", "aria-label": "Signs of the map" }, ...marks, ...lines);
}
