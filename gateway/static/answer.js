/** @file Shows one answer: its text while it comes, who gave it, how fast, and what went wrong. */

import { ApiError } from "./api.js";
import { streamChat, tokensPerS } from "./chat_stream.js";
import { copyButton } from "./copy.js";
import { el, setText } from "./dom.js";
import { called, plural, rate, seconds } from "./format.js";
import { rendered } from "./rich_text.js";
import { whoAnswered } from "./who_answered.js";

/** @typedef {import("./chat_stream.js").Answered} Answered */
/** @typedef {{nameOf: (id: string) => string}} Names */

/** @type {Record<string, string>} */
const ENDS = { length: "cut at the most tokens", tool_calls: "ended with a call of a tool" };

export class Answer {
  text = "";
  /** What a listener is told when it is over. */
  outcome = "";
  hasFailed = false;
  #names;
  #body = el("div", { class: "text" });
  #facts = el("p", { class: "facts muted" });
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
    const head = el("div", { class: "answer-head" }, el("h3", {}, el("bdi", {}, model)), copy);
    this.node = el(
      "article",
      { class: "answer", "aria-busy": "true" },
      head,
      this.#body,
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
    /** @type {Answered | null} */
    let answered = null;
    try {
      answered = await streamChat(body, {
        signal,
        onText: (text, soFar) => {
          this.text += text;
          this.#drawSoon(onGrown);
          setText(this.#facts, this.#factsOf((answered = soFar)));
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
    setText(this.#facts, answered ? this.#factsOf(answered) : "");
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

  /** Blocks that are there already stay, so that a reader can select in them while more comes. */
  #draw() {
    rendered(this.text).forEach((block, i) => {
      const there = this.#body.children[i];
      if (!there) this.#body.append(block);
      else if (there.tagName !== block.tagName) there.replaceWith(block);
      else if (there.tagName === "PRE") setText(there.firstElementChild, block.textContent ?? "");
      else setText(there, block.textContent ?? "");
    });
  }

  /** @param {Answered} answered */
  #factsOf(answered) {
    const speed = tokensPerS(answered);
    const end = ENDS[answered.finishReason ?? ""];
    return [
      `${answered.isCounted ? "" : "about "}${plural(answered.tokens, "token")}`,
      speed === null ? "" : `${rate(speed)} tokens/s`,
      `first token after ${seconds(answered.firstTokenS)}`,
      answered.worker ? `by ${called(answered.worker, this.#names.nameOf(answered.worker))}` : "",
      end ?? "",
    ]
      .filter(Boolean)
      .join(" \u00b7 ");
  }

  /** @param {Answered} answered */
  async #showRoute(answered) {
    const route = await whoAnswered(answered.requestId);
    if (!route || !route.workers.length) return;
    const [first, ...others] = route.workers;
    setText(this.#facts, this.#factsOf({ ...answered, worker: first }));
    this.#facts.title = route.workers.join(", then ");
    for (const worker of others) {
      const gap = route.gapS === null ? "" : `, gap ${seconds(route.gapS)}`;
      this.#badges.append(
        el("span", { class: "badge" }, `resumed on ${called(worker, this.#names.nameOf(worker))}${gap}`),
      );
    }
  }
}
