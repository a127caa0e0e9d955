/** @file Lets requests move over the map: out to a worker and back, and from one to the other where an answer went on.
 * Made of what the page is told anyway, and only while somebody looks. */

import { svg } from "./dom.js";

/** @typedef {import("./types.js").Worker} Worker */
/** @typedef {import("./types.js").Failure} Failure */
/** @typedef {{x: number, y: number}} Spot */

const TICK_MS = 1600;
const MOVE_MS = 1400;
/** How long it is seen where an answer has gone on. */
const JUMP_MS = 6000;

/** At once; of more, those are drawn that have most. */
const MOST = 16;

/**
 * How many requests each worker has, and has had since the last look: an answer may be shorter than that.
 * @param {Worker[]} workers
 * @param {Map<string, number>} served requests by then, by worker
 * @returns {Map<string, number>}
 */
export function underWay(workers, served) {
  const found = new Map();
  for (const { id, in_flight, measured } of workers) {
    const ended = Math.max(0, measured.requests - (served.get(id) ?? measured.requests));
    if (in_flight + ended > 0) found.set(id, in_flight + ended);
  }
  return found;
}

/**
 * Ways that begin alike, as those to one disc do, are one; the most used first.
 * @param {Map<string, number>} many requests by worker
 * @param {Map<string, [number, number][]>} ways by worker
 * @returns {{points: [number, number][], many: number}[]}
 */
export function pulses(many, ways) {
  const found = new Map();
  for (const [id, requests] of many) {
    const points = ways.get(id);
    if (!points) continue;
    const pulse = found.get(String(points)) ?? { points, many: 0 };
    pulse.many += requests;
    found.set(String(points), pulse);
  }
  return [...found.values()].sort((one, other) => other.many - one.many).slice(0, MOST);
}

/**
 * Answers that have gone on elsewhere, by what they are known by.
 * @param {Failure[]} failures
 * @returns {Map<string, Failure>}
 */
export function resumes(failures) {
  const resumed = failures.filter(({ done, by, worker }) => done === "resumed" && by && worker);
  return new Map(resumed.map((failure) => [`${failure.at} ${failure.request_id} ${failure.worker}`, failure]));
}

/**
 * @param {import("./live.js").Store} store
 * @param {SVGElement} picture
 * @param {{ways: () => Map<string, [number, number][]>, spots: () => Map<string, Spot>}} drawn
 * @returns {Element} what is drawn onto the picture
 */
export function motion(store, picture, drawn) {
  const layer = svg("g", { class: "motion", "aria-hidden": "true" });
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let served = new Map();
  /** @type {Map<string, Failure> | null} */
  let known = null;
  let isInView = false;

  const isWatched = () => isInView && document.visibilityState === "visible";

  function tick() {
    const workers = store.sections.workers?.workers ?? [];
    if (isWatched() && !still.matches) {
      for (const { points, many } of pulses(underWay(workers, served), drawn.ways())) move(points, many);
    }
    served = new Map(workers.map(({ id, measured }) => [id, measured.requests]));
  }

  function move(points, many) {
    const dot = svg("circle", { class: "pulse", r: Math.min(7, 2.5 + Math.log2(many)) });
    layer.append(dot);
    const way = [...points, ...points.slice(0, -1).reverse()];
    const far = way.map(([x, y], i) => (i ? Math.hypot(x - way[i - 1][0], y - way[i - 1][1]) : 0));
    const all = far.reduce((sum, one) => sum + one) || 1;
    let gone = 0;
    const frames = way.map(([x, y], i) => ({ transform: `translate(${x}px, ${y}px)`, offset: Math.min(1, (gone += far[i]) / all) }));
    dot.animate(frames, { duration: MOVE_MS, easing: "ease-in-out" }).finished.finally(() => dot.remove());
  }

  function jump({ worker, by }) {
    const [from, to, gateway] = [worker, by, store.sections.gateway?.id].map((id) => drawn.spots().get(id));
    if (!from || !to) return;
    const { x, y } = gateway ?? from; // it bends towards who has moved it
    const bend = `${(from.x + to.x + 2 * x) / 4} ${(from.y + to.y + 2 * y) / 4}`;
    const arc = svg("path", { class: "jump", d: `M${from.x} ${from.y}Q${bend} ${to.x} ${to.y}` });
    layer.append(arc);
    setTimeout(() => arc.remove(), JUMP_MS);
    if (still.matches) return;
    const length = arc.getTotalLength();
    arc.animate([{ strokeDasharray: `0 ${length}` }, { strokeDasharray: `${length} 0` }], MOVE_MS);
  }

  store.on("failures", ({ failures }) => {
    const now = resumes(failures);
    const fresh = [...now].filter(([key]) => known !== null && !known.has(key)).slice(0, MOST);
    if (isWatched()) fresh.forEach(([, failure]) => jump(failure));
    known = now;
  });
  new IntersectionObserver(([{ isIntersecting }]) => (isInView = isIntersecting)).observe(picture);
  setInterval(tick, TICK_MS);
  return layer;
}
