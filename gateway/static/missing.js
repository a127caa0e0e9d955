/** @file Says of which models layers are missing, and what serves them. */

import { commandLine } from "./copy.js";
import { el, keyed } from "./dom.js";
import { through } from "./join.js";

/** Of more models, whoever has the first can begin. */
const SHOWN = 3;

/** @typedef {[number, number]} Span layers from the first up to the second, which is not among them */

/** @param {Span[]} gaps */
export function inWords(gaps) {
  return `layers ${gaps.map(([first, last]) => `${first} to ${last}`).join(" and ")} are missing`;
}

/**
 * What serves the first of them. A model without a slash in its name is taken for a folder's.
 * @param {string} name
 * @param {Span[]} gaps
 */
export function serves(name, [[first, last]]) {
  return `p2pnet serve --model ${name.includes("/") ? name : `./${name}`} --layers ${first}:${last}`;
}

/**
 * @param {import("./live.js").Store} store
 * @returns {Element}
 */
export function missing(store) {
  const node = el("ul", { class: "incomplete" });
  const update = () => {
    const joins = store.sections.join ? through(store.sections.join, location.hostname) : "";
    const incomplete = (store.sections.models ?? []).filter((model) => model.missing?.length);
    keyed(node, incomplete.slice(0, SHOWN), ({ id, missing }) => `${id} ${missing} ${joins}`, (model) => item(model, joins));
  };
  store.on("models", update);
  store.on("join", update);
  return node;
}

function item({ id, missing }, joins) {
  const says = el("p", {}, el("strong", {}, el("bdi", {}, id)), `: ${inWords(missing)}. Whoever has its files serves them with:`);
  const node = el("li", {}, says, commandLine(`Serve layers of ${id}`, `${serves(id, missing)} ${joins}`.trim()));
  return { node, update: () => {} };
}
