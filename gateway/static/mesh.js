/** @file Draws the map of the mesh, and says in words what it shows. Where things lie is decided in mesh_layout.js. */

import { byId, el, setAttribute, setText, svg } from "./dom.js";
import { count, plural, shortId } from "./format.js";
import { toPart, toWorker } from "./links.js";
import { layout, relaysOf, waysOf } from "./mesh_layout.js";
import { motion } from "./mesh_motion.js";
import { fits } from "./workers.js";

/** @typedef {import("./types.js").MeshSection} MeshSection */

const LABEL_CHARS = 14;
const NARROW_PX = 560;

const WAYS = { direct: "direct", punched: "through a hole in NAT", relayed: "through a relay" };

const STATES = { trial: "on trial", cooling: "cooling down", lost: "lost" };

/**
 * @param {import("./live.js").Store} store
 * @returns {Element}
 */
export function mesh(store) {
  const picture = svg("svg", { class: "mesh", role: "img" });
  const signs = el("ul", { class: "legend muted", "aria-label": "Signs of the map" });
  let updates = new Map();
  let links = [];
  let drawnOf = "";
  let spots = new Map();
  let ways = new Map();
  const moving = motion(store, picture, { ways: () => ways, spots: () => spots });

  function draw() {
    const section = store.sections.mesh;
    const width = picture.clientWidth;
    if (!section || !width) return;
    const of = `${width} ${JSON.stringify(section)}`;
    if (of === drawnOf) return;
    drawnOf = of;
    const placed = layout(section, { width, height: heightFor(section.nodes.length, width) });
    setAttribute(picture, "viewBox", `0 0 ${width} ${placed.height}`);
    setAttribute(picture, "height", String(placed.height));
    links = placed.links.map(({ kind, to, points }) => [to, svg("path", { class: `link ${kind}`, d: way(points) })]);
    const reached = waysOf(section);
    const nodes = placed.nodes.map((node) => ({
      id: node.id,
      ...drawNode(node, reached.get(node.id) ?? "", node.y < placed.height / 2),
    }));
    spots = new Map(placed.nodes.map((node) => [node.id, node]));
    const gateway = placed.nodes.find(({ kind }) => kind === "gateway");
    updates = new Map(nodes.map(({ id, update }) => [id, update]));
    ways = new Map(placed.links.map(({ to, points }) => [to, points]));
    for (const disc of gateway ? placed.discs : []) disc.workers.forEach((id) => ways.set(id, trunk(disc, gateway)));
    picture.classList.toggle("dense", placed.discs.length > 0);
    picture.replaceChildren(
      ...links.map(([, link]) => link),
      ...placed.discs.flatMap((disc) => (gateway ? drawDisc(disc, gateway) : [])),
      ...nodes.map(({ node }) => node),
      moving,
    );
    const said = describe(section);
    setText(byId("mesh-line"), said);
    setAttribute(picture, "aria-label", `${said} The table of workers says the same in words.`);
    colour();
  }

  function colour() {
    const wanted = byId("workers-filter").value;
    const known = new Map((store.sections.workers?.workers ?? []).map((worker) => [worker.id, worker]));
    for (const [id, update] of updates) update(known.get(id));
    for (const [id, link] of links) {
      const worker = known.get(id);
      link.classList.toggle("busy", (worker?.in_flight ?? 0) > 0);
      link.classList.toggle("lost", worker?.state === "lost");
      link.classList.toggle("found", Boolean(wanted && worker && fits(worker, wanted)));
    }
    picture.querySelectorAll(".node.worker").forEach((node) => {
      const worker = known.get(node.dataset.id ?? "");
      node.classList.toggle("dim", Boolean(wanted && worker && !fits(worker, wanted)));
    });
    if (store.sections.mesh) signs.replaceChildren(...legend(store.sections.mesh, [...known.values()]));
  }

  picture.addEventListener("click", ({ target }) => {
    const { id, way } = /** @type {Element} */ (target).closest("[data-id], [data-way]")?.dataset ?? {};
    if (id) location.hash = toWorker(id);
    else if (way) location.hash = toPart("workers", way);
  });
  byId("workers-filter").addEventListener("input", colour);
  store.on("mesh", draw);
  store.on("workers", colour);
  new ResizeObserver(draw).observe(picture);
  return el("div", {}, picture, signs);
}

/**
 * At most.
 * @param {number} nodes
 * @param {number} width
 */
function heightFor(nodes, width) {
  return nodes > 24 ? 460 : nodes > 10 ? 320 : width < NARROW_PX ? 230 : 190;
}

function way(points) {
  return `M${points.map((point) => point.map(Math.round).join(" ")).join("L")}`;
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
 * @param {import("./mesh_layout.js").Disc} disc
 * @param {{x: number, y: number}} gateway
 * @returns {[number, number][]}
 */
function trunk({ x, y, radius }, gateway) {
  return [[gateway.x, gateway.y], [x, y - radius - 17], [x, y - radius]];
}

/**
 * The way to all workers of a disc as one line, and how many they are.
 * @param {import("./mesh_layout.js").Disc} disc
 * @param {{x: number, y: number}} gateway
 */
function drawDisc(disc, gateway) {
  const { way: kind, relay, workers, x, y, radius } = disc;
  const by = relay === null ? kind : `by ${shortId(relay)}`;
  return [
    svg("path", { class: `trunk link ${kind}`, d: way(trunk(disc, gateway)) }),
    svg("text", { "data-way": kind, x, y: y + radius + 14, "text-anchor": "middle" }, `${count(workers.length)} ${by}`),
  ];
}

function drawNode(placed, reached, isAbove) {
  const { id, kind, name, x, y, r, isLabelled } = placed;
  const title = svg("title");
  const inside = svg("path", { class: "inside" });
  const outline = svg("path", { class: "outline", d: outlineOf(kind, r) });
  const label = isLabelled ? svg("text", { y: isAbove ? -r - 6 : r + 14, "text-anchor": "middle" }, labelOf(placed)) : null;
  const node = svg(
    "g",
    {
      class: `node ${kind} ${reached}`,
      "data-id": kind === "worker" ? id : null,
      transform: `translate(${Math.round(x)} ${Math.round(y)})`,
    },
    title,
    outline,
    inside,
    label,
  );
  const update = (worker) => {
    const state = kind === "worker" ? (worker?.state ?? "unknown") : kind;
    setAttribute(node, "data-state", state);
    setAttribute(inside, "d", insideOf(state, r));
    const says = kind === "gateway" ? "this gateway" : kind === "bootstrap" ? "bootstrap" : `worker, ${state}, ${reached}`;
    setText(title, `${name ? `${name}, ` : ""}${id}: ${says}`);
  };
  return { node, update };
}

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

function circle(r) {
  return `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`;
}

/**
 * Each way and each state, with how many workers have it: a link to them. Of states only those that there are.
 * @param {MeshSection} section
 * @param {import("./types.js").Worker[]} workers
 */
function legend(section, workers) {
  const ways = [...waysOf(section).values()];
  const reached = Object.entries(WAYS).map(([kind, text]) =>
    sign(text, ways.filter((one) => one === kind).length, kind, line(kind), mark("worker", "healthy", kind)),
  );
  const ill = Object.entries(STATES)
    .map(([state, text]) => ({ state, text, many: workers.filter((worker) => worker.state === state).length }))
    .filter(({ state, many }) => many || state === "lost")
    .map(({ state, text, many }) => sign(text, many, text, mark("worker", state)));
  const others = [el("li", {}, mark("gateway"), "this gateway"), el("li", {}, mark("bootstrap"), line("joined"), "bootstrap")];
  const moves = svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, svg("circle", { class: "pulse", r: 4, cx: 8, cy: 8 }));
  others.push(el("li", { class: "moves" }, moves, "requests"));
  const arc = svg("svg", { width: 24, height: 16, "aria-hidden": "true" }, svg("path", { class: "jump", d: "M2 12Q12 0 22 12" }));
  others.push(el("li", {}, arc, "gone on elsewhere"));
  return [...reached, ...ill, ...others];
}

function sign(text, many, find, ...marks) {
  return el("li", {}, ...marks, el("a", { href: toPart("workers", find) }, text, " ", el("strong", {}, count(many))));
}

function mark(kind, state = kind, reached = "") {
  const parts = [["outline", outlineOf(kind, 6)], ["inside", insideOf(state, 6)]];
  const drawn = parts.map(([name, d]) => svg("path", { class: name, d }));
  const group = svg("g", { class: `node ${kind} ${reached}`, "data-state": state, transform: "translate(8 8)" }, ...drawn);
  return svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, group);
}

function line(kind) {
  return svg("svg", { width: 24, height: 16, "aria-hidden": "true" }, svg("path", { class: `link ${kind}`, d: "M1 8H23" }));
}
