/** @file Computes where the peers of the mesh are drawn: the gateway in the middle, bootstraps around it, workers
 * outside, and those behind a relay beside their relay. Pure. */

/** @typedef {import("./types.js").MeshSection} MeshSection */
/** @typedef {import("./types.js").NodeKind} NodeKind */
/** @typedef {{id: string, kind: NodeKind, name: string, x: number, y: number, r: number, isLabelled: boolean}} Placed */
/** @typedef {{kind: string, to: string, points: [number, number][]}} Drawn */
/** @typedef {{width: number, height: number}} Size */
/** @typedef {{radiusX: number, radiusY: number}} Shape */

const TOP = -Math.PI / 2;
const MARGIN_X = 46;
const MARGIN_Y = 34;
const BOOTSTRAP_RING = 0.42;
const INNER_RING = 0.66;
const LABEL_PX = 96;
const LABELLED_PX = 560;
/** Below this width the middle is too crowded for names. */
const FEW = 24;

/**
 * @param {MeshSection} mesh
 * @param {Size} size
 * @returns {{nodes: Placed[], links: Drawn[]}}
 */
export function layout(mesh, size) {
  const bootstraps = mesh.nodes.filter(({ kind }) => kind === "bootstrap");
  const workers = mesh.nodes.filter(({ kind }) => kind === "worker");
  const relays = relaysOf(mesh);
  const shape = ellipse(workers.length, size);
  const sectors = sectorsOf(
    bootstraps.map(({ id }) => id),
    workers,
    relays,
  );
  const angles = anglesOf(sectors, relays);
  const rings = ringsFor(workers.length, shape);
  const order = new Map(sectors.flatMap(({ workers }) => workers).map((worker, i) => [worker.id, i]));
  const isRoomy = workers.length * LABEL_PX <= perimeter(1, shape);

  const nodes = mesh.nodes.map((node) => {
    const angle = angles.get(node.id) ?? TOP;
    const ring =
      node.kind === "gateway"
        ? 0
        : node.kind === "bootstrap"
          ? BOOTSTRAP_RING
          : rings.at((order.get(node.id) ?? 0) % rings.length);
    const isLabelled = isRoomy && (node.kind === "worker" || size.width >= LABELLED_PX);
    return { ...node, ...at(angle, ring ?? 1, size, shape), r: radiusOf(node.kind, workers.length), isLabelled };
  });
  return { nodes, links: linksOf(mesh, new Map(nodes.map((node) => [node.id, node])), relays) };
}

/**
 * The first relay of every worker that is reached through one.
 * @param {MeshSection} mesh
 * @returns {Map<string, string>}
 */
export function relaysOf({ links }) {
  const relayed = new Set(links.filter(({ kind }) => kind === "relayed").map(({ to }) => to));
  const found = new Map();
  for (const { from, to, kind } of links) {
    if (kind === "reserved" && relayed.has(from) && !found.has(from)) found.set(from, to);
  }
  return found;
}

/**
 * A sector for each bootstrap: workers behind it in the middle, its share of the others on both sides.
 * @template {{id: string}} W
 * @param {string[]} bootstraps
 * @param {W[]} workers
 * @param {Map<string, string>} relays
 * @returns {{bootstrap: string | null, workers: W[]}[]}
 */
export function sectorsOf(bootstraps, workers, relays) {
  /** @type {(string | null)[]} */
  const anchors = bootstraps.length ? bootstraps : [null];
  const free = workers.filter(({ id }) => !anchors.includes(relays.get(id) ?? ""));
  return anchors.map((bootstrap, i) => {
    const mine = free.filter((_, n) => n % anchors.length === i);
    const behind = bootstrap === null ? [] : workers.filter(({ id }) => relays.get(id) === bootstrap);
    const half = Math.ceil(mine.length / 2);
    return { bootstrap, workers: [...mine.slice(0, half), ...behind, ...mine.slice(half)] };
  });
}

/**
 * Workers spread evenly in their sectors. A bootstrap stands before those behind it, or else between two sectors, so
 * that no line to a worker leads through it.
 * @param {{bootstrap: string | null, workers: {id: string}[]}[]} sectors
 * @param {Map<string, string>} relays
 * @returns {Map<string, number>}
 */
function anglesOf(sectors, relays) {
  const angles = new Map();
  const whole = sectors.reduce((sum, { workers }) => sum + workers.length + 1, 0);
  let begin = TOP;
  for (const { bootstrap, workers } of sectors) {
    const width = (2 * Math.PI * (workers.length + 1)) / whole;
    workers.forEach(({ id }, i) => angles.set(id, begin + (width * (i + 1)) / (workers.length + 1)));
    const behind = workers.filter(({ id }) => bootstrap !== null && relays.get(id) === bootstrap);
    const middle = behind.reduce((sum, { id }) => sum + angles.get(id), 0) / behind.length;
    if (bootstrap !== null) angles.set(bootstrap, behind.length ? middle : begin);
    begin += width;
  }
  return angles;
}

/**
 * One ring for workers while there is room on it, up to five.
 * @param {number} workers
 * @param {Shape} shape
 * @returns {number[]} parts of the whole radius
 */
function ringsFor(workers, shape) {
  const apart = 2 * radiusOf("worker", workers) + 10;
  const needed = Math.ceil((workers * apart) / perimeter(0.85, shape));
  const rings = Math.min(5, Math.max(1, needed));
  return rings === 1 ? [1] : Array.from({ length: rings }, (_, i) => INNER_RING + ((1 - INNER_RING) * i) / (rings - 1));
}

/**
 * @param {NodeKind} kind
 * @param {number} workers
 */
function radiusOf(kind, workers) {
  if (kind === "gateway") return 11;
  if (kind === "bootstrap") return 8;
  return workers <= FEW ? 8 : workers <= 80 ? 6 : 4.5;
}

/**
 * @param {number} ring
 * @param {Shape} shape
 */
function perimeter(ring, { radiusX, radiusY }) {
  return Math.PI * ring * (radiusX + radiusY);
}

/**
 * The outermost ring. A few workers would be lost on a wide one.
 * @param {number} workers
 * @param {Size} size
 * @returns {Shape}
 */
function ellipse(workers, { width, height }) {
  const radiusY = height / 2 - MARGIN_Y;
  return { radiusX: Math.min(width / 2 - MARGIN_X, radiusY * (workers <= FEW ? 2.2 : 4)), radiusY };
}

/**
 * @param {number} angle
 * @param {number} ring
 * @param {Size} size
 * @param {Shape} shape
 */
function at(angle, ring, { width, height }, { radiusX, radiusY }) {
  return {
    x: width / 2 + radiusX * ring * Math.cos(angle),
    y: height / 2 + radiusY * ring * Math.sin(angle),
  };
}

/**
 * A relayed link goes through its relay; that the worker has a reservation there is then drawn already.
 * @param {MeshSection} mesh
 * @param {Map<string, Placed>} nodes
 * @param {Map<string, string>} relays
 * @returns {Drawn[]}
 */
function linksOf({ links }, nodes, relays) {
  return links
    .filter(({ from, to, kind }) => !(kind === "reserved" && relays.get(from) === to))
    .map(({ from, to, kind }) => {
      const way = kind === "relayed" ? [from, relays.get(to), to] : [from, to];
      const stops = way.flatMap((id) => nodes.get(id ?? "") ?? []);
      return { kind, to, points: stops.map(({ x, y }) => /** @type {[number, number]} */ ([x, y])) };
    })
    .filter(({ points }) => points.length > 1);
}
