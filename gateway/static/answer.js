/** @file Shows one answer: its text while it comes, who gave it, how fast, and what went wrong. */

import { ApiError } from "./api.js";
import { pretty, streamChat, tokensPerS } from "./chat_stream.js";
import { copyButton } from "./copy.js";
import { el, setText } from "./dom.js";
import { called, plural, rate, seconds } from "./format.js";
import { toRequest } from "./links.js";
import { codeBlock, show } from "./rich_text.js";
import { whoAnswered } from "./who_answered.js";

/** @typedef {import("./chat_stream.js").Answered} Answered */
/** @typedef {{nameOf: (id: string) => string}} Names */

const ENDS = { length: "cut at the most tokens", tool_calls: "ended with a call of a tool" };

export class Answer {
  text = "";
  /** What a listener is told when it is over. */
  outcome = "";
  hasFailed = false;
  #names;
  #body = el("div", { class: "text" });
  #calls = el("div", { class: "calls" });
  /** @type {Answered["calls"]} */
  #called = [];
  #facts = el("p", { class: "facts muted" });
  #details = el("button", { type: "button", class: "quiet small", hidden: true }, "Details");
  #badges = el("p", { class: "badges" });
  #problem = el("p", { class: "problem", hidden: true });
  #isDrawing = false;

  /**
   * @param {string} model
   * @param {Names} names
   */
  constructor(model, names) {
    this.model = model;
    this.#names = names;
    const copy = copyButton("Copy", () => this.text, {
      class: "quiet small",
      "aria-label": `Copy the answer of ${model}`,
    });
    const head = el("div", { class: "answer-head" }, el("h3", {}, el("bdi", {}, model)), this.#details, copy);
    this.node = el(
      "article",
      { class: "answer", "aria-busy": "true" },
      head,
      this.#body,
      this.#calls,
      this.#problem,
      this.#badges,
      this.#facts,
    );
  }

  /**
   * Comes to its end in any case, and shows what that was.
   * @param {import("./types.js").ChatBody} body
   * @param {AbortSignal} signal
   * @param {() => void} onGrown
   */
  async run(body, signal, onGrown) {
    setText(this.#facts, "waiting for the first token");
    let answered = null;
    try {
      answered = await streamChat(body, {
        signal,
        onText: (text, soFar) => {
          this.text += text;
          this.#called = soFar.calls;
          this.#drawSoon(onGrown);
          this.#tell((answered = soFar), [soFar.worker]);
        },
      });
      this.outcome = `Answer complete, ${plural(answered.tokens, "token")}.`;
    } catch (error) {
      if (!(error instanceof ApiError) && !signal.aborted) throw error;
      this.hasFailed = !signal.aborted;
      this.outcome = signal.aborted ? "Stopped." : /** @type {Error} */ (error).message;
      setText(this.#problem, this.outcome);
      this.#problem.hidden = false;
      this.#problem.classList.toggle("calm", signal.aborted);
    }
    this.#draw();
    if (answered) this.#tell(answered, [answered.worker]);
    else setText(this.#facts, "");
    this.node.setAttribute("aria-busy", "false");
    if (answered) await this.#showRoute(answered);
    onGrown();
  }

  /** @param {() => void} onGrown */
  #drawSoon(onGrown) {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      this.#draw();
      onGrown();
    });
  }

  #draw() {
    show(this.#body, this.text);
    const calls = this.#called.filter(Boolean).map(({ name, arguments: given }) => {
      const says = el("h4", {}, "Calls ", el("code", {}, name));
      return el("div", { class: "call" }, says, codeBlock(pretty(given), `arguments of ${name}`));
    });
    this.#calls.replaceChildren(...calls);
  }

  /**
   * @param {Answered} answered
   * @param {(string | null)[]} workers all who gave it, in their order
   */
  #tell(answered, workers) {
    const speed = tokensPerS(answered);
    const end = ENDS[answered.finishReason ?? ""];
    const by = workers.flatMap((worker) => (worker ? called(worker, this.#names.nameOf(worker)) : []));
    const facts = [
      `${answered.isCounted ? "" : "about "}${plural(answered.tokens, "token")}`,
      speed === null ? "" : `${rate(speed)} tokens/s`,
      `first token after ${seconds(answered.firstTokenS)}`,
      by.length ? `by ${by.join(", then ")}` : "",
      end ?? "",
    ].filter(Boolean);
    setText(this.#facts, facts.join(" \u00b7 "));
  }

  /** @param {Answered} answered */
  async #showRoute(answered) {
    const route = await whoAnswered(answered.requestId);
    if (!route || !route.workers.length) return;
    this.#tell(answered, route.workers);
    this.#details.addEventListener("click", () => (location.hash = toRequest(answered.requestId)));
    this.#details.hidden = false;
    for (const worker of route.workers.slice(1)) {
      const gap = route.gapS === null ? "" : `, gap ${seconds(route.gapS)}`;
      this.#badges.append(
        el("span", { class: "badge" }, `resumed on ${called(worker, this.#names.nameOf(worker))}${gap}`),
      );
    }
  }
}
