/** @file Copies text, and says so on the button that did it; shows what is there to be copied. */

import { el } from "./dom.js";

const SAID_MS = 1500;

/**
 * The clipboard belongs to secure contexts; a gateway in a home network is reached over plain HTTP.
 * @param {string} text
 */
async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = el("textarea", { class: "unseen", readonly: true });
  field.value = text;
  const host = document.querySelector("dialog[open]") ?? document.body;
  host.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("copying is not allowed here");
}

/**
 * Makes a button copy what `text` gives at that moment; null copies nothing.
 * @param {HTMLButtonElement} button
 * @param {() => string | null} text
 */
export function copies(button, text) {
  const label = button.textContent ?? "";
  let timer = 0;
  button.addEventListener("click", async () => {
    const copied = text();
    if (copied === null) return;
    const isCopied = await copy(copied).then(
      () => true,
      () => false,
    );
    button.textContent = isCopied ? "Copied" : "Not copied: select it by hand";
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = label), SAID_MS);
  });
  return button;
}

/**
 * @param {string} label
 * @param {() => string | null} text
 * @param {Record<string, string>} [attributes]
 */
export function copyButton(label, text, attributes = {}) {
  return copies(el("button", { type: "button", ...attributes }, label), text);
}

/**
 * @param {string} label
 * @param {string} text
 */
export function commandLine(label, text) {
  return el(
    "div",
    { class: "command" },
    el("pre", { tabindex: "0", "aria-label": label }, el("code", {}, text)),
    copyButton("Copy", () => text, { class: "small", "aria-label": `Copy: ${label}` }),
  );
}
