/** @file Keeps real tables up to date row by row; on a narrow screen each row reads as a card. */

import { el, keyed, setText } from "./dom.js";
import { count } from "./format.js";

/** Rows on a narrow screen before somebody asks for all: there each of them is a card. */
const NARROW_ROWS = 3;
const NARROW = "(max-width: 760px)";

/**
 * A column makes its cell's content once, and updates it. `kind` is how it is set.
 * @template T
 * @typedef {{label: string, kind?: "number" | "head",
 *   make: () => {node: Node, update: (item: T) => void}}} Column
 */

/**
 * Of many items `few` are shown until somebody asks for all.
 * @template T
 * @param {{caption: string, columns: Column<T>[], keyOf: (item: T) => string, empty: string, few: number}} options
 * @returns {{node: Element, update: (items: T[]) => void}}
 */
export function table({ caption, columns, keyOf, empty, few }) {
  // The roles are said although they are a table's own: browsers drop them where CSS lays a table out differently.
  const heads = columns.map(({ label, kind }) => el("th", { role: "columnheader", scope: "col", class: kind }, label));
  const body = el("tbody", { role: "rowgroup" });
  const shown = el(
    "table",
    { role: "table" },
    el("caption", { class: "unseen" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
    body,
  );
  const nothing = el("p", { class: "nothing muted" }, empty);
  const all = el("button", { type: "button", class: "quiet", hidden: true });
  const node = el("div", {}, shown, nothing, all);
  let known = [];
  let isAll = false;

  function makeRow() {
    const cells = columns.map((column) => column.make());
    const row = el("tr", { role: "row" }, ...cells.map((cell, i) => cellNode(columns[i], cell.node)));
    const update = (item) => {
      row.dataset.key = keyOf(item);
      for (const cell of cells) cell.update(item);
    };
    return { node: row, update };
  }

  const update = (items) => {
    known = items;
    const room = isAll ? items.length : matchMedia(NARROW).matches ? Math.min(few, NARROW_ROWS) : few;
    shown.hidden = items.length === 0;
    nothing.hidden = items.length > 0;
    all.hidden = items.length <= room;
    setText(all, `Show all ${count(items.length)}`);
    keyed(body, items.slice(0, room), keyOf, makeRow);
  };
  all.addEventListener("click", () => {
    isAll = true;
    update(known);
  });
  return { node, update };
}

function cellNode({ label, kind }, content) {
  const attributes = { class: kind, "data-label": label };
  if (kind === "head") return el("th", { ...attributes, role: "rowheader", scope: "row" }, content);
  return el("td", { ...attributes, role: "cell" }, content);
}

/**
 * A cell of plain text.
 * @template T
 * @param {(item: T) => string} text
 * @returns {() => {node: Node, update: (item: T) => void}}
 */
export function words(text) {
  return () => {
    const node = el("span");
    return { node, update: (item) => setText(node, text(item)) };
  };
}

/**
 * How much of a whole is taken, as a bar beside the numbers that it shows.
 * @template T
 * @param {(item: T) => {taken: number, of: number}} share
 * @returns {() => {node: Node, update: (item: T) => void}}
 */
export function bar(share) {
  return () => {
    const fill = el("i");
    const text = el("span");
    const node = el("span", { class: "load" }, el("span", { class: "track", "aria-hidden": "true" }, fill), text);
    const update = (item) => {
      const { taken, of } = share(item);
      fill.style.width = `${of ? Math.min(100, (100 * taken) / of) : 0}%`;
      setText(text, `${taken} of ${of}`);
    };
    return { node, update };
  };
}
