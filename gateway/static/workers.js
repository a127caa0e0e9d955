/** @file Shows the table of workers: who they are, how they are, and how fast. */

import { copyButton } from "./copy.js";
import { byId, el, setAttribute, setText } from "./dom.js";
import { count, percent, seconds, shortId, span, speed } from "./format.js";
import { toWorker } from "./links.js";
import { bar, table, words } from "./table.js";

/** @typedef {import("./types.js").Worker} Worker */

const AGES_MS = 10_000;

const SHOWN = 25;
/** Rows before somebody asks for all: 200 rows are a long way to the failures below. */

/** @type {Record<string, string>} */
const SIGNS = { healthy: "\u25cf", trial: "\u25d0", cooling: "\u25cb", lost: "\u2715", flagged: "\u2691" };

/** Words that find workers by more than their names: other parts of the page lead here by them. */
export const IN_TROUBLE = "in trouble";
export const BUSY = "busy";

/** @type {Record<string, string>} */
export const STATES = {
  healthy: "healthy",
  trial: "on trial",
  cooling: "cooling down",
  lost: "lost",
  flagged: "flagged",
};

/**
 * @param {import("./live.js").Store} store
 * @returns {Element}
 */
export function workers(store) {
  const shown = table({
    caption: "Workers that this gateway knows",
    empty: "No worker fits.",
    few: SHOWN,
    keyOf: (/** @type {Worker} */ worker) => worker.id,
    columns: [
      { label: "Worker", kind: "head", make: who },
      {
        label: "Models",
        make: words((/** @type {Worker} */ worker) => runs(worker) || "\u2013"),
      },
      { label: "Reached", make: words((/** @type {Worker} */ worker) => reached(worker)) },
      { label: "Load", make: bar(load) },
      {
        label: "Speed",
        kind: "number",
        make: words((/** @type {Worker} */ worker) => speed(worker.measured.tokens_per_s)),
      },
      {
        label: "First token",
        kind: "number",
        make: words((/** @type {Worker} */ worker) => seconds(worker.measured.first_token_mean_s)),
      },
      {
        label: "Success",
        kind: "number",
        make: words((/** @type {Worker} */ worker) => percent(worker.measured.success_rate)),
      },
      { label: "State", make: state },
      { label: "Known for", kind: "number", make: words((/** @type {Worker} */ worker) => knownFor(worker)) },
    ],
  });
  const filter = byId("workers-filter");

  function update() {
    const section = store.sections.workers;
    if (!section) return;
    shown.update(section.workers.filter((worker) => fits(worker, filter.value)).sort(byName));
  }

  filter.addEventListener("input", update);
  store.on("workers", update);
  setInterval(update, AGES_MS);
  return shown.node;
}

/**
 * Each once: a worker may run a model for two tasks.
 * @param {Worker} worker
 */
export function modelNames(worker) {
  return [...new Set(worker.models.map(({ id }) => id))].join(", ");
}

/**
 * What it runs, and what it would drive if all layers were somewhere.
 * @param {Worker} worker
 */
export function runs(worker) {
  const lacks = worker.incomplete ?? [];
  return [modelNames(worker), ...lacks.map((id) => `${id} (layers are missing)`)].filter(Boolean).join(", ");
}

/**
 * @param {Worker} worker
 * @param {string} wanted
 */
export function fits(worker, wanted) {
  const said = [
    worker.id,
    worker.name,
    worker.state,
    STATES[worker.state],
    worker.state === "healthy" ? "" : IN_TROUBLE,
    worker.in_flight ? BUSY : "",
    worker.reached,
    runs(worker),
  ];
  return said.join(" ").toLowerCase().includes(wanted.trim().toLowerCase());
}

/**
 * Those with a name first; never by what changes, or rows would jump.
 * @param {Worker} one
 * @param {Worker} other
 */
function byName(one, other) {
  if (!one.name !== !other.name) return one.name ? -1 : 1;
  return (one.name ?? "").localeCompare(other.name ?? "") || one.id.localeCompare(other.id);
}

/** @param {Worker} worker */
export function reached(worker) {
  if (worker.reached !== "relayed") return worker.reached ?? "\u2013";
  return worker.relays?.length ? `relayed by ${worker.relays.map(shortId).join(", ")}` : "relayed";
}

function knownFor({ since }) {
  return span(since === null ? null : (Date.now() - new Date(since).getTime()) / 1000);
}

function load(worker) {
  return { taken: Math.max(worker.pressure, worker.in_flight), of: worker.slots };
}

function who() {
  let id = "";
  const name = el("bdi", { class: "name" });
  const short = el("code");
  const way = el("a", {}, name, short);
  const copy = copyButton("Copy", () => id, { class: "quiet small" });
  const node = el("span", { class: "who" }, way, copy);
  const update = (/** @type {Worker} */ worker) => {
    id = worker.id;
    setText(name, worker.name ?? "");
    setAttribute(way, "href", toWorker(worker.id));
    setText(short, shortId(worker.id));
    setAttribute(short, "title", worker.id);
    setAttribute(copy, "aria-label", `Copy the peer id of ${worker.name || shortId(worker.id)}`);
  };
  return { node, update };
}

function state() {
  const sign = el("i", { "aria-hidden": "true" });
  const text = el("span");
  const reason = el("span", { class: "reason muted" });
  const node = el("span", { class: "state" }, sign, text, reason);
  const update = (/** @type {Worker} */ worker) => {
    setAttribute(node, "data-state", worker.state);
    setText(sign, SIGNS[worker.state] ?? "?");
    setText(text, STATES[worker.state] ?? worker.state);
    setText(reason, because(worker));
  };
  return { node, update };
}

/** @param {Worker} worker */
export function because({ reason, cooldown_s, audit }) {
  const left = cooldown_s ? `${Math.ceil(cooldown_s)} s more` : "";
  return [reason?.replaceAll("_", " "), left, found(audit)].filter(Boolean).join(", ");
}

/**
 * What audits have found, where that is worth a word: who is flagged is shown with the evidence.
 * @param {import("./types.js").Audit | undefined} audit
 */
function found(audit) {
  if (!audit) return "";
  const { verdict, tokens, auditors, log_e: evidence, compared, alike } = audit;
  const weight = `${count(tokens)} tokens, evidence ${evidence ?? 0} by ${auditors} ${auditors === 1 ? "auditor" : "auditors"}`;
  if (verdict === "flagged") return weight;
  if (verdict === "suspected") return `suspected: ${weight}`;
  if (verdict !== "unverifiable") return "";
  return compared ? `unverifiable, ${count(alike)} of ${count(compared)} answers as others'` : "unverifiable";
}
