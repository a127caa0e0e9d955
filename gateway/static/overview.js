/** @file Shows the overview: numbers, models and failures, with its larger parts in their places. */

import { charts } from "./charts.js";
import { byId, el, setText } from "./dom.js";
import { called, clock, count, NOTHING, plural, seconds, shortId, span, speed } from "./format.js";
import { linked, toPart, toRequest, toWorker } from "./links.js";
import { mesh } from "./mesh.js";
import { missing } from "./missing.js";
import { onVisit } from "./router.js";
import { bar, table, words } from "./table.js";
import { copyButton } from "./copy.js";
import { BUSY, IN_TROUBLE, workers } from "./workers.js";

/** @typedef {import("./types.js").Sections} Sections */

const FEW = 5;
const MODELS = 12;

/**
 * What is counted, how many, a note; and where each of the two leads, to what it is made of.
 * @type {[string, (known: Sections) => number | undefined, (known: Sections) => string, string, string?][]}
 */
const TILES = [
  ["Workers", ({ workers }) => workers?.total, inTrouble, toPart("workers"), toPart("workers", IN_TROUBLE)],
  ["Models", ({ models }) => models?.length, () => "", toPart("models")],
  ["In flight", ({ gateway }) => gateway?.in_flight, slots, toPart("workers", BUSY), toPart("workers")],
  ["Waiting", ({ gateway }) => gateway?.waiting, () => "for a free slot", toPart("models")],
];

function inTrouble({ workers, gateway }) {
  if (!workers || !workers.total) return "";
  if (gateway && gateway.workers_announced > 1.1 * workers.total) return `of some ${count(gateway.workers_announced)}`;
  const ill = workers.workers.filter((worker) => worker.state !== "healthy").length;
  return ill ? `${ill} ${IN_TROUBLE}` : "all healthy";
}

function slots({ workers }) {
  if (!workers) return "";
  const taken = workers.workers.reduce((sum, worker) => sum + worker.slots, 0);
  return taken ? `of ${plural(taken, "slot")}` : "";
}

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
  onVisit("overview", (_, given) => {
    const part = document.getElementById(`${given.get("at")}-title`);
    if (!part) return;
    const filter = byId("workers-filter");
    filter.value = given.get("find") ?? "";
    filter.dispatchEvent(new Event("input"));
    part.scrollIntoView();
  });
}

function showTiles(store) {
  const updates = TILES.map(([label, value, note, href, noteHref = null]) => {
    const shown = el("a", { class: "figure", href }, NOTHING);
    const small = el(noteHref ? "a" : "span", { class: "muted", href: noteHref });
    byId("tiles").append(el("div", {}, el("dt", {}, label), el("dd", {}, shown, small)));
    return () => {
      const number = value(store.sections);
      setText(shown, number === undefined ? NOTHING : count(number));
      setText(small, note(store.sections));
    };
  });
  const update = () => updates.forEach((one) => one());
  store.on("gateway", update);
  store.on("models", update);
  store.on("workers", update);
}

function showGateway(store) {
  const text = el("span");
  let id = "";
  const copy = copyButton("Copy id", () => id, { class: "quiet small", "aria-label": "Copy this gateway's peer id" });
  byId("gateway-line").append(text, copy);
  store.on("gateway", (gateway) => {
    id = gateway.id;
    const started = new Date(gateway.started);
    const since = span((Date.now() - started.getTime()) / 1000);
    const ready = gateway.is_ready ? "" : " It has not found its way into the network yet.";
    setText(text, `Gateway ${shortId(gateway.id)}, ${gateway.agent}, up for ${since}.${ready}`);
    text.title = gateway.id;
  });
}

function showModels(store) {
  const shown = table({
    caption: "Models that workers announce",
    empty: "No model yet.",
    few: MODELS,
    keyOf: (model) => model.id,
    columns: [
      {
        label: "Model",
        kind: "head",
        make: linked(
          (model) => model.id,
          ({ id }) => toPart("workers", id),
        ),
      },
      { label: "For", make: words((model) => model.tasks.join(", ") || NOTHING) },
      {
        label: "Workers",
        kind: "number",
        make: linked(
          (model) => count(model.workers),
          ({ id }) => toPart("workers", id),
        ),
      },
      {
        label: "Capacity used",
        make: bar((model) => ({ taken: model.in_flight, of: model.slots })),
      },
      { label: "Queue", kind: "number", make: words((model) => count(model.waiting)) },
      { label: "Speed", kind: "number", make: words((model) => speed(model.tokens_per_s)) },
      { label: "Context", kind: "number", make: words(contextOf) },
    ],
  });
  byId("models").append(shown.node, missing(store));
  store.on("models", shown.update);
}

function contextOf(model) {
  return model.context_length === null ? "\u2013" : count(model.context_length);
}

function showVolunteers(store) {
  const shown = table({
    caption: "Volunteers who want to be named, and what they gave to this gateway",
    empty: "Nobody yet: a worker that is started with --name is named here once it has answered.",
    keyOf: (volunteer) => volunteer.id,
    few: FEW,
    columns: [
      { label: "Name", kind: "head", make: linked((volunteer) => volunteer.name, ({ id }) => toWorker(id)) },
      { label: "Answers", kind: "number", make: linked(({ answers }) => count(answers), ({ id }) => toWorker(id)) },
      { label: "Tokens", kind: "number", make: words(({ tokens }) => count(tokens)) },
    ],
  });
  byId("volunteers").append(shown.node);
  store.on("volunteers", ({ volunteers }) => shown.update(volunteers));
}

function showFailures(store) {
  const shown = table({
    caption: "The last failures that this gateway has seen, those of a kind together, newest first",
    empty: "Nothing has failed.",
    keyOf: ({ last }) => `${last.at} ${last.request_id} ${last.worker}`,
    few: FEW,
    columns: [
      {
        label: "At",
        kind: "head",
        make: linked(
          ({ last }) => clock(new Date(last.at)),
          ({ last }) => toRequest(last.request_id),
        ),
      },
      { label: "Times", kind: "number", make: words(({ times }) => count(times)) },
      { label: "Model", make: linked(({ last }) => last.model) },
      {
        label: "Worker",
        make: linked(
          ({ last: { worker } }) =>
            worker === null ? NOTHING : called(worker, store.nameOf(worker)),
          ({ last: { worker } }) => (worker === null ? null : toWorker(worker)),
        ),
      },
      { label: "What happened", make: words(({ last }) => happened(last.outcome)) },
      { label: "What was done", make: linked(({ last }) => done(last, store)) },
    ],
  });
  byId("failures").append(shown.node);
  const update = () => shown.update(grouped(store.sections.failures?.failures ?? []));
  store.on("failures", update);
  store.on("workers", update); // they bring names
}

/** @typedef {import("./types.js").Failure} Failure */
/** @typedef {{last: Failure, times: number}} Failures */

/**
 * Those of one kind, of one model at one worker, are one; the newest says when it was last.
 * @param {Failure[]} failures newest first
 * @returns {Failures[]}
 */
export function grouped(failures) {
  const groups = new Map();
  for (const last of failures) {
    const kind = JSON.stringify([last.outcome, last.done, last.model, last.worker]);
    const group = groups.get(kind);
    if (group) group.times += 1;
    else groups.set(kind, { last, times: 1 });
  }
  return [...groups.values()];
}

const OUTCOMES = {
  stop: "It came to its end",
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
