/** @file Computes where the peers of the mesh are drawn. A few workers stand on an ellipse around the gateway,
 * bootstraps within; many stand in one disc for each way on which they are reached. Pure. */

/** @typedef {import("./types.js").MeshSection} MeshSection */
/** @typedef {{x: number, y: number}} Spot */
/** @typedef {{id: string, kind: import("./types.js").NodeKind, name: string, x: number, y: number, r: number, isLabelled: boolean}} Placed */
/** @typedef {{kind: string, to: string, points: [number, number][]}} Drawn */
/** @typedef {{width: number, height: number}} Size */
/** @typedef {{way: string, relay: string | null, workers: string[]}} Group */
/** @typedef {Group & Spot & {radius: number}} Disc */

/** Where the first relay stands: beside the gateway there is more room than above it. */
const FIRST = 0;
const MARGIN_X = 46;
const MARGIN_Y = 34;
const BOOTSTRAP_RING = 0.5;
const LABEL_PX = 96;
/** Below this width the middle is too crowded for names. */
const LABELLED_PX = 560;
/** More workers stand in discs. */
const FEW = 24;

/** Of discs: from dot to dot where there is room, and at least; above and below; and across. */
const APART = 13;
const LEAST_APART = 5;
const ABOVE = 34;
const BELOW = 26;
const DISC_PX = 104;
const GATEWAY_Y = 18;

/**
 * As high as it needs to be, at most as the size says.
 * @param {MeshSection} mesh
 * @param {Size} size
 * @returns {{nodes: Placed[], links: Drawn[], discs: Disc[], height: number}}
 */
export function layout(mesh, size) {
  const workers = mesh.nodes.filter(({ kind }) => kind === "worker").length;
  const relays = relaysOf(mesh);
  const { spots, discs, height, isRoomy } = workers > FEW ? inDiscs(mesh, relays, size) : around(mesh, relays, size);
  const nodes = mesh.nodes.map((node) => ({
    ...node,
    .../** @type {Spot} */ (spots.get(node.id)),
    r: radiusOf(node.kind, workers),
    isLabelled: isRoomy && (node.kind === "worker" || size.width >= LABELLED_PX),
  }));
  return { nodes, links: linksOf(mesh, new Map(nodes.map((node) => [node.id, node])), relays), discs, height };
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
 * How each worker is reached.
 * @param {MeshSection} mesh
 * @returns {Map<string, string>}
 */
export function waysOf({ links }) {
  return new Map(links.filter(({ kind }) => kind !== "joined" && kind !== "reserved").map(({ to, kind }) => [to, kind]));
}

/**
 * Workers by the way on which they are reached, and those behind a relay by their relay.
 * @param {MeshSection} mesh
 * @param {Map<string, string>} relays
 * @returns {Group[]} the largest first
 */
export function groupsOf(mesh, relays) {
  const ways = waysOf(mesh);
  const groups = new Map();
  for (const { id, kind } of mesh.nodes) {
    if (kind !== "worker") continue;
    const way = ways.get(id) ?? "";
    const relay = relays.get(id) ?? null;
    const key = `${way} ${relay}`;
    const group = groups.get(key) ?? { way, relay, workers: [] };
    group.workers.push(id);
    groups.set(key, group);
  }
  return [...groups.values()].sort((one, other) => other.workers.length - one.workers.length);
}

/**
 * The gateway above its discs, which stand in rows; a relay above those behind it, other bootstraps beside the gateway.
 * @param {MeshSection} mesh
 * @param {Map<string, string>} relays
 * @param {Size} size
 */
function inDiscs(mesh, relays, { width, height }) {
  const groups = groupsOf(mesh, relays);
  let apart = APART;
  let placed = inRows(groups, apart, width);
  while (placed.height > height && apart > LEAST_APART) placed = inRows(groups, (apart *= 0.95), width);
  const spots = new Map();
  for (const { x, y, radius, relay, workers } of placed.discs) {
    workers.forEach((id, i) => spots.set(id, sunflower(i, apart, x, y)));
    if (relay !== null && !spots.has(relay)) spots.set(relay, { x, y: y - radius - ABOVE / 2 });
  }
  const others = mesh.nodes.filter(({ id, kind }) => kind === "bootstrap" && !spots.has(id));
  others.forEach(({ id }, i) => spots.set(id, { x: (width * (i + 0.5)) / others.length, y: 2.8 * GATEWAY_Y }));
  for (const { id, kind } of mesh.nodes) if (kind === "gateway") spots.set(id, { x: width / 2, y: GATEWAY_Y });
  return { ...placed, spots, isRoomy: false };
}

function inRows(groups, apart, width) {
  const rows = [];
  let left = 0;
  for (const group of groups) {
    const radius = 0.6 * apart * Math.sqrt(group.workers.length) + 6;
    const room = Math.max(2 * radius + 16, DISC_PX);
    if (!rows.length || left + room > width) {
      rows.push([]);
      left = 0;
    }
    rows[rows.length - 1].push({ ...group, radius, x: left + room / 2, y: 0 });
    left += room;
  }
  let top = 2 * GATEWAY_Y;
  for (const row of rows) {
    const tallest = Math.max(...row.map(({ radius }) => radius));
    const last = row[row.length - 1];
    const spare = width - last.x - Math.max(last.radius + 8, DISC_PX / 2);
    row.forEach((disc, i) => {
      disc.x += (spare * (i + 0.5)) / row.length;
      disc.y = top + ABOVE + tallest;
    });
    top += ABOVE + 2 * tallest + BELOW;
  }
  return { discs: rows.flat(), height: top };
}

/**
 * Dots in a disc, evenly, however many come: Vogel's model of a sunflower's head.
 * @param {number} i
 * @param {number} apart
 * @param {number} x
 * @param {number} y
 */
function sunflower(i, apart, x, y) {
  const radius = 0.6 * apart * Math.sqrt(i + 0.5);
  const angle = i * Math.PI * (3 - Math.sqrt(5));
  return { x: x + radius * Math.cos(angle), y: y + radius * Math.sin(angle) };
}

function around(mesh, relays, { width, height }) {
  const ids = (kind) => mesh.nodes.filter((node) => node.kind === kind).map(({ id }) => id);
  const workers = ids("worker");
  const angles = anglesOf(ids("bootstrap"), workers, relays);
  const radiusY = height / 2 - MARGIN_Y;
  const radiusX = Math.min(width / 2 - MARGIN_X, 3.2 * radiusY); // a few would be lost on a wide one
  const spots = new Map(
    mesh.nodes.map(({ id, kind }) => {
      const angle = angles.get(id) ?? FIRST;
      const ring = kind === "gateway" ? 0 : kind === "bootstrap" ? BOOTSTRAP_RING : 1;
      const x = width / 2 + radiusX * ring * Math.cos(angle);
      return [id, { x, y: height / 2 + radiusY * ring * Math.sin(angle) }];
    }),
  );
  return { spots, discs: [], height, isRoomy: workers.length * LABEL_PX <= Math.PI * (radiusX + radiusY) };
}

/**
 * A place on the circle for each worker, those behind one relay side by side. A relay stands before them; another
 * bootstrap has a place of its own, so that no line leads through it.
 * @param {string[]} bootstraps
 * @param {string[]} workers
 * @param {Map<string, string>} relays
 * @returns {Map<string, number>}
 */
function anglesOf(bootstraps, workers, relays) {
  const behind = (bootstrap) => workers.filter((id) => relays.get(id) === bootstrap);
  const free = workers.filter((id) => !bootstraps.includes(relays.get(id) ?? ""));
  const places = bootstraps.flatMap((bootstrap, i) => [
    ...(behind(bootstrap).length ? behind(bootstrap) : [bootstrap]),
    ...free.filter((_, n) => n % bootstraps.length === i),
  ]);
  if (!bootstraps.length) places.push(...workers);
  const angles = new Map(places.map((id, i) => [id, FIRST + (2 * Math.PI * i) / places.length]));
  for (const relay of bootstraps.filter((id) => !angles.has(id))) {
    const theirs = behind(relay).map((id) => angles.get(id) ?? FIRST);
    angles.set(relay, theirs.reduce((sum, angle) => sum + angle, 0) / theirs.length);
  }
  return angles;
}

function radiusOf(kind, workers) {
  if (kind === "gateway") return 11;
  if (kind === "bootstrap") return 7;
  return workers <= FEW ? 8 : 4.5;
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
    .filter(({ kind }) => kind !== "reserved")
    .map(({ from, to, kind }) => {
      const way = kind === "relayed" ? [from, relays.get(to), to] : [from, to];
      const stops = way.flatMap((id) => nodes.get(id ?? "") ?? []);
      return { kind, to, points: stops.map(({ x, y }) => /** @type {[number, number]} */ ([x, y])) };
    })
    .filter(({ points }) => points.length > 1);
}
