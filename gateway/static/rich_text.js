/** @file Shows what a model says as paragraphs and blocks of code. `blocksOf` is pure; nodes hold nothing but text. */

import { el } from "./dom.js";

/** @typedef {{kind: "text" | "code", text: string, language: string}} Block */

/**
 * Splits at fences of three backticks or more. A fence that is still open reaches to the end: the answer may go on.
 * @param {string} text
 * @returns {Block[]}
 */
export function blocksOf(text) {
  /** @type {Block[]} */
  const blocks = [];
  /** @type {string[]} */
  let lines = [];
  let fence = "";
  let language = "";

  const end = (/** @type {"text" | "code"} */ kind) => {
    const said = kind === "code" ? lines.join("\n") : lines.join("\n").replace(/^\n+|\n+$/g, "");
    if (said || kind === "code") blocks.push({ kind, text: said, language });
    lines = [];
    language = "";
  };

  for (const line of text.split("\n")) {
    const opening = /^ {0,3}(`{3,})([^`]*)$/.exec(line);
    if (!fence && opening) {
      end("text");
      fence = opening[1];
      language = opening[2].trim();
    } else if (fence && opening && opening[1].length >= fence.length && !opening[2].trim()) {
      end("code");
      fence = "";
    } else {
      lines.push(line);
    }
  }
  end(fence ? "code" : "text");
  return blocks;
}

/**
 * @param {string} text
 * @returns {Element[]}
 */
export function rendered(text) {
  return blocksOf(text).flatMap(({ kind, text, language }) => {
    if (kind === "code")
      return [
        el("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, el("code", {}, text)),
      ];
    return text.split(/\n{2,}/).map((paragraph) => el("p", {}, paragraph));
  });
}
