/** @file Shows the page of one worker and that of one request: what this gateway remembers of them. */

import { ApiError, ask } from "./api.js";
import { copyButton } from "./copy.js";
import { byId, el, setText } from "./dom.js";
import { called, clock, count, NOTHING, percent, seconds, span, speed } from "./format.js";
import { linked, toRequest, toWorker } from "./links.js";
import { happened } from "./overview.js";
import { onVisit } from "./router.js";
import { table, words } from "./table.js";
import { reportOf } from "./who_answered.js";
import { because, reached, STATES } from "./workers.js";

/** @typedef {import("./types.js").RequestReport} Report */

const LAST = 50;

/** Who has waited less has not waited. */
const NO_WAIT_S = 0.0005;

export function startPages(store) {
  let again = () => {};
  for (const [view, parts] of /** @type {const} */ ([["worker", workerParts], ["request", requestParts]]))
    onVisit(view, (id) => (again = () => fill(view, id, parts(id, store)))());
  let isNamed = false;
  store.on("workers", () => {
    if (!isNamed) again();
    isNamed = true;
  });
}

async function fill(view, id, parts) {
  const { hash } = location;
  const nodes = await parts.catch((error) => {
    if (!(error instanceof ApiError)) throw error;
    return [el("p", { class: "problem" }, error.message)];
  });
  if (location.hash !== hash) return;
  const copy = copyButton("Copy", () => id, { class: "quiet small", "aria-label": `Copy the ${view}'s id` });
  byId(`${view}-body`).replaceChildren(el("p", { class: "muted" }, el("code", {}, id), " ", copy), ...nodes);
}

const json = async (path) => (await ask(`p2pnet/v1/${path}`)).json();

async function workerParts(id, store) {
  const of = `worker=${encodeURIComponent(id)}`;
  const [{ workers }, { requests }] = await Promise.all([json(`workers?${of}`), json(`requests?${of}&limit=${LAST}`)]);
  const live = store.sections.workers?.workers.find((worker) => worker.id === id);
  setText(byId("worker-title"), live?.name || "Worker");
  const last = requestTable(requests);
  if (!workers.length) return [el("p", {}, "No worker with this id announces itself now."), last];
  const { state, reason, cooldown_s, agent, slots, in_flight, pressure, round_trip_s, measured, models } = workers[0];
  const since = live?.since ? (Date.now() - new Date(live.since).getTime()) / 1000 : null;
  return [
    facts([
      ["State", [STATES[state] ?? state, because({ reason, cooldown_s })].filter(Boolean).join(", ")],
      ["Reached", live ? reached(live) : NOTHING],
      ["Known for", span(since)],
      ["Round trip", seconds(round_trip_s)],
      ["Runs now", `${in_flight} for this gateway, ${pressure} in all, of ${slots}`],
      ["Requests in a day", count(measured.requests)],
      ["Success", percent(measured.success_rate)],
      ["Speed of an answer", speed(measured.tokens_per_s)],
      ["First token, mean and p95", `${seconds(measured.first_token_mean_s)}, ${seconds(measured.first_token_p95_s)}`],
      ["Whole answer, mean and p95", `${seconds(measured.duration_mean_s)}, ${seconds(measured.duration_p95_s)}`],
      ["Software", agent],
      ...models.map((model) => [`To ${model.task}`, modelFact(model)]),
    ]),
    last,
  ];
}

function modelFact({ id, quantization, dtype, context_length, digest }) {
  const parts = [id, quantization === "none" ? "" : quantization, dtype, `context ${count(context_length)}`, digest.slice(0, 19)];
  return parts.filter(Boolean).join(", ");
}

function requestTable(requests) {
  const made = table({
    caption: "The last requests that this worker took part in",
    empty: "None that this gateway remembers.",
    keyOf: (one) => one.number,
    few: 10,
    columns: [
      {
        label: "Arrived",
        kind: "head",
        make: linked((one) => clock(new Date(one.arrived)), (one) => toRequest(one.request_id)),
      },
      { label: "Model", make: linked((one) => one.model) },
      { label: "Took", kind: "number", make: words((one) => seconds(one.duration_s)) },
      { label: "Tokens", kind: "number", make: words((one) => count(one.completion_tokens)) },
      { label: "End", make: words((one) => one.outcome.replaceAll("_", " ")) },
    ],
  });
  made.update(requests);
  return el("section", { class: "card" }, el("h2", {}, "Last requests there"), made.node);
}

async function requestParts(id, store) {
  const report = await reportOf(id);
  if (!report)
    return [el("p", {}, "This gateway remembers no such request: it is not over yet, too old, or another gateway's.")];
  return [
    facts([
      ["Model", report.model],
      ["Arrived", new Date(report.arrived).toLocaleString()],
      ["End", report.outcome.replaceAll("_", " ")],
      ["In the queue", seconds(report.queued_s)],
      ["First token", seconds(report.first_token_s)],
      ["All of it", seconds(report.duration_s)],
      ["Longest gap of a change", seconds(report.gap_s)],
      ["Tokens of the prompt", `${count(report.prompt_tokens)}, ${count(report.cached_tokens)} of them computed before`],
      ["Tokens of the answer", count(report.completion_tokens)],
    ]),
    el("section", { class: "card" }, el("h2", {}, "Its way"), el("ol", { class: "way" }, ...way(report, store))),
  ];
}

/** The queue, then each try: pale until its first token, full while tokens came. */
function way({ queued_s, duration_s, attempts }, store) {
  const track = (/** @type {[string, number, number][]} */ ...parts) => {
    const bars = parts.map(([kind, from, to]) => {
      const bar = el("i", { class: kind });
      bar.style.left = `${(100 * from) / duration_s}%`;
      bar.style.width = `${Math.max(0.4, (100 * (to - from)) / duration_s)}%`;
      return bar;
    });
    return el("div", { class: "span", "aria-hidden": "true" }, ...bars);
  };
  const tries = attempts.map(({ worker, began_s, first_token_s, duration_s: took_s, tokens, outcome, why, is_hedge }) => {
    const first_s = began_s + (first_token_s ?? took_s);
    return el(
      "li",
      {},
      el("a", { href: toWorker(worker) }, called(worker, store.nameOf(worker))),
      track(["waits", began_s, first_s], ...(tokens ? [["gives", first_s, began_s + took_s]] : [])),
      `${is_hedge ? "Asked beside another" : "Asked"} after ${seconds(began_s)}`,
      ` (${why.replaceAll("_", " ")}), first token after ${seconds(first_token_s)}, ${count(tokens)} tokens in ${seconds(took_s)}. `,
      happened(outcome),
    );
  });
  const waits = el("li", {}, "Queue", track(["waits", 0, queued_s]), `Waited ${seconds(queued_s)} for a free slot`);
  return [...(queued_s < NO_WAIT_S ? [] : [waits]), ...tries];
}

function facts(pairs) {
  return el("dl", { class: "card pairs" }, ...pairs.map(([name, fact]) => el("div", {}, el("dt", {}, name), el("dd", {}, fact))));
}
