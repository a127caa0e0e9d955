/** @file Shows the overview: numbers, models and failures, with its larger parts in their places. */

import { charts } from "./charts.js";
import { byId, el, setText } from "./dom.js";
import { called, clock, count, NOTHING, plural, rate, seconds, shortId, span } from "./format.js";
import { mesh } from "./mesh.js";
import { bar, table, words } from "./table.js";
import { copyButton } from "./copy.js";
import { workers } from "./workers.js";

/** @typedef {import("./types.js").Sections} Sections */

/** @type {[string, (known: Sections) => string, (known: Sections) => string][]} */
const TILES = [
  ["Workers", ({ workers }) => (workers ? count(workers.total) : "\u2013"), notHealthy],
  ["Models", ({ models }) => (models ? count(models.length) : "\u2013"), () => ""],
  ["Requests/s", ({ gateway }) => rate(gateway?.requests_per_s), () => "last 10 s"],
  ["Tokens/s", ({ gateway }) => rate(gateway?.tokens_per_s), () => "last 10 s"],
  ["In flight", ({ gateway }) => (gateway ? count(gateway.in_flight) : "\u2013"), slots],
  ["Waiting", ({ gateway }) => (gateway ? count(gateway.waiting) : "\u2013"), () => "for a free slot"],
];

/** @param {Sections} known */
function notHealthy({ workers, gateway }) {
  if (!workers || !workers.total) return "";
  if (gateway && gateway.workers_announced > 1.1 * workers.total) return `of some ${count(gateway.workers_announced)}`;
  const ill = workers.workers.filter((worker) => worker.state !== "healthy").length;
  return ill ? `${ill} not healthy` : "all healthy";
}

/** @param {Sections} known */
function slots({ workers }) {
  if (!workers) return "";
  const taken = workers.workers.reduce((sum, worker) => sum + worker.slots, 0);
  return taken ? `of ${plural(taken, "slot")}` : "";
}

/** @param {import("./live.js").Store} store */
export function startOverview(store) {
  showTiles(store);
  showGateway(store);
  showModels(store);
  showVolunteers(store);
  showFailures(store);
  byId("charts").append(...charts(store));
  byId("mesh").append(mesh(store));
  byId("workers").append(workers(store));
  store.on("workers", ({ total }) => (byId("no-workers").hidden = total > 0));
}

/** @param {import("./live.js").Store} store */
function showTiles(store) {
  const updates = TILES.map(([label, value, note]) => {
    const shown = el("strong", {}, "\u2013");
    const small = el("span", { class: "muted" });
    byId("tiles").append(el("div", {}, el("dt", {}, label), el("dd", {}, shown, small)));
    return () => {
      setText(shown, value(store.sections));
      setText(small, note(store.sections));
    };
  });
  const update = () => updates.forEach((one) => one());
  store.on("gateway", update);
  store.on("models", update);
  store.on("workers", update);
}

/** @param {import("./live.js").Store} store */
function showGateway(store) {
  const text = el("span");
  let id = "";
  const copy = copyButton("Copy id", () => id, { class: "quiet small", "aria-label": "Copy this gateway's peer id" });
  byId("gateway-line").append(text, copy);
  store.on("gateway", (/** @type {import("./types.js").GatewaySection} */ gateway) => {
    id = gateway.id;
    const started = new Date(gateway.started);
    const since = span((Date.now() - started.getTime()) / 1000);
    const ready = gateway.is_ready ? "" : " It has not found its way into the network yet.";
    setText(text, `Gateway ${shortId(gateway.id)}, ${gateway.agent}, up for ${since}.${ready}`);
    text.title = gateway.id;
  });
}

/** @param {import("./live.js").Store} store */
function showModels(store) {
  /** @typedef {import("./types.js").Model} Model */
  const shown = table({
    caption: "Models that workers announce",
    empty: "No model yet.",
    keyOf: (/** @type {Model} */ model) => model.id,
    columns: [
      { label: "Model", kind: "head", make: name((/** @type {Model} */ model) => model.id) },
      { label: "For", make: words((/** @type {Model} */ model) => model.tasks.join(", ")) },
      { label: "Workers", kind: "number", make: words((/** @type {Model} */ model) => count(model.workers)) },
      {
        label: "Capacity used",
        make: bar((/** @type {Model} */ model) => ({ taken: model.in_flight, of: model.slots })),
      },
      { label: "Queue", kind: "number", make: words((/** @type {Model} */ model) => count(model.waiting)) },
      { label: "Tokens/s", kind: "number", make: words((/** @type {Model} */ model) => rate(model.tokens_per_s)) },
      { label: "Context", kind: "number", make: words(contextOf) },
    ],
  });
  byId("models").append(shown.node);
  store.on("models", shown.update);
}

/** @param {import("./types.js").Model} model */
function contextOf(model) {
  return model.context_length === null ? "\u2013" : count(model.context_length);
}

/**
 * A stranger's word: it may be written in either direction.
 * @template T
 * @param {(item: T) => string} text
 */
function name(text) {
  return () => {
    const node = el("bdi");
    return { node, update: (/** @type {T} */ item) => setText(node, text(item)) };
  };
}

/** @param {import("./live.js").Store} store */
function showVolunteers(store) {
  /** @typedef {import("./types.js").Volunteer} Volunteer */
  const shown = table({
    caption: "Volunteers who want to be named, and what they gave to this gateway",
    empty: "Nobody yet: a worker that is started with --name is named here once it has answered.",
    keyOf: (/** @type {Volunteer} */ volunteer) => volunteer.id,
    columns: [
      { label: "Name", kind: "head", make: name((/** @type {Volunteer} */ volunteer) => volunteer.name) },
      { label: "Worker", make: words((/** @type {Volunteer} */ volunteer) => shortId(volunteer.id)) },
      { label: "Answers", kind: "number", make: words((/** @type {Volunteer} */ { answers }) => count(answers)) },
      { label: "Tokens", kind: "number", make: words((/** @type {Volunteer} */ { tokens }) => count(tokens)) },
    ],
  });
  byId("volunteers").append(shown.node);
  store.on("volunteers", ({ volunteers }) => shown.update(volunteers));
}

/** @param {import("./live.js").Store} store */
function showFailures(store) {
  /** @typedef {import("./types.js").Failure} Failure */
  const shown = table({
    caption: "The last failures that this gateway has seen, newest first",
    empty: "Nothing has failed.",
    keyOf: (/** @type {Failure} */ failure) => `${failure.at} ${failure.request_id} ${failure.worker}`,
    columns: [
      { label: "At", kind: "head", make: words((/** @type {Failure} */ failure) => clock(new Date(failure.at))) },
      { label: "Model", make: name((/** @type {Failure} */ failure) => failure.model) },
      {
        label: "Worker",
        make: name((/** @type {Failure} */ f) =>
          f.worker === null ? NOTHING : called(f.worker, store.nameOf(f.worker)),
        ),
      },
      { label: "What happened", make: words((/** @type {Failure} */ failure) => happened(failure.outcome)) },
      { label: "What was done", make: name((/** @type {Failure} */ failure) => done(failure, store)) },
    ],
  });
  byId("failures").append(shown.node);
  store.on("failures", ({ failures }) => shown.update(failures));
}

/** @type {Record<string, string>} */
const OUTCOMES = {
  peer_lost: "The connection to it was lost",
  peer_unreachable: "It could not be reached",
  too_slow: "It was many times slower than others",
  worker_failed: "It failed",
  end_doubted: "It ended after next to nothing",
  flagged: "Its answers do not come from what it claims to run",
  wrong_receipt: "It signed what it had not given",
  protocol_violation: "It answered against the protocol",
  busy: "It was full",
  draining: "It was stopping",
  internal: "The gateway failed",
  cancelled: "It was too late",
  no_worker: "Nobody could take it",
};

/** @param {string} outcome */
export function happened(outcome) {
  return OUTCOMES[outcome] ?? outcome.replaceAll("_", " ");
}

/**
 * @param {import("./types.js").Failure} failure
 * @param {{nameOf: (id: string) => string}} names
 */
export function done({ done, by, gap_s }, names) {
  const other = by === null ? "another worker" : called(by, names.nameOf(by));
  const gap = gap_s === null ? "" : `, gap ${seconds(gap_s)}`;
  switch (done) {
    case "resumed":
      return `Resumed on ${other}${gap}`;
    case "retried":
      return `Begun anew on ${other}`;
    case "hedged":
      return `Asked ${other} beside it`;
    case "going_on":
      return "It goes on elsewhere, as soon as somebody is there";
    case "given":
      return "The client has its answer";
    case "gave_up":
      return "Given up: the client was told";
    default:
      return String(done);
  }
}
