/** @file Names the addresses of the page's views, and makes links to them. */

import { el, setAttribute, setText } from "./dom.js";

/** @param {string} id */
export const toWorker = (id) => `#/worker/${encodeURIComponent(id)}`;

/** @param {string} id */
export const toRequest = (id) => `#/request/${encodeURIComponent(id)}`;

/**
 * The part of the overview with this id, there only the workers that have these words.
 * @param {string} part
 * @param {string} [find]
 */
export const toPart = (part, find = "") => `#/?at=${part}&find=${encodeURIComponent(find)}`;

/**
 * A stranger's word, which may be written in either direction, as a link; a null leads nowhere.
 * @template T
 * @param {(item: T) => string} text
 * @param {(item: T) => string | null} href
 * @returns {() => {node: Node, update: (item: T) => void}}
 */
export function linked(text, href = () => null) {
  return () => {
    const word = el("bdi");
    const node = el("a", {}, word);
    const update = (item) => {
      setText(word, text(item));
      setAttribute(node, "href", href(item));
    };
    return { node, update };
  };
}
