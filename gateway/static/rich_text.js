/** @file Shows what a model says: paragraphs, headings, lists, tables, code. What it is made of is decided by pure
 * functions; nodes hold nothing but text, and nothing leads anywhere. */

import { copyButton } from "./copy.js";
import { el, setText } from "./dom.js";

/** @typedef {{kind: "text" | "code" | "heading" | "list" | "table" | "quote", text: string, language: string}} Block */

const HEADING = /^ {0,3}#{1,6} +/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9}[.)]))\s+/;
const QUOTE = /^ {0,3}> ?/;
const RULE = /^[\s|:-]*-[\s|:-]*$/;

/** What is set within a line, in lines that are no longer: searching takes the square of that. */
const SET = /(`+)(.+?)\1|\*\*([^\s*`](?:[^*`]*[^\s*`])?)\*\*|\*([^\s*`](?:[^*`]*[^\s*`])?)\*/g;
const SET_CHARS = 4000;

/**
 * Splits at fences of three backticks or more. A fence that is still open reaches to the end: the answer may go on.
 * @param {string} text
 * @returns {Block[]}
 */
export function blocksOf(text) {
  const blocks = [];
  let lines = [];
  let fence = "";
  let language = "";

  const end = (kind) => {
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
 * What is between fences, by what its lines begin with. A list goes on in lines that begin with nothing.
 * @param {string} text
 * @returns {Block[]}
 */
export function partsOf(text) {
  const parts = [];
  let open = null;
  const lines = text.split("\n");
  lines.forEach((line, i) => {
    const kind = kindOf(line, lines[i + 1] ?? "", open?.kind);
    if (kind === null) open = null;
    else if (open && open.kind === kind && kind !== "heading") open.text += `\n${line}`;
    else parts.push((open = { kind, text: line, language: "" }));
  });
  return parts;
}

function kindOf(line, next, open) {
  if (!line.trim()) return null;
  if (HEADING.test(line)) return "heading";
  if (QUOTE.test(line)) return "quote";
  if (line.includes("|") && (open === "table" || (next.includes("|") && RULE.test(next)))) return "table";
  return ITEM.test(line) || open === "list" ? "list" : "text";
}

/**
 * Brings what is shown in line with the text so far. Blocks that are there already stay, so that a reader can select in
 * them while more comes.
 * @param {Element} body
 * @param {string} text
 */
export function show(body, text) {
  const blocks = blocksOf(text).flatMap((block) => (block.kind === "code" ? [block] : partsOf(block.text)));
  blocks.forEach((block, i) => {
    const there = /** @type {any} */ (body.children[i]);
    const { kind, text, language } = there?.shows ?? {};
    const isOfIts = kind === block.kind && language === block.language;
    if (isOfIts && text === block.text) return;
    if (isOfIts && kind === "code") setText(there.querySelector("code"), block.text);
    else if (there) there.replaceWith(rendered(block));
    else body.append(rendered(block));
    /** @type {any} */ (body.children[i]).shows = block;
  });
  while (body.children.length > blocks.length) body.lastElementChild?.remove();
}

function rendered({ kind, text, language }) {
  const lines = text.split("\n");
  if (kind === "code") return codeBlock(text, language);
  if (kind === "heading") return el("h4", {}, ...set(text.replace(HEADING, "")));
  if (kind === "quote") return el("blockquote", {}, ...set(lines.map((line) => line.replace(QUOTE, "")).join("\n")));
  if (kind === "table") return table(lines);
  if (kind === "text") return el("p", {}, ...set(text));
  return el("ul", {}, ...text.split(/\n(?=\s*(?:[-*+]|\d{1,9}[.)])\s)/).map(item));
}

/**
 * @param {string} text
 * @param {string} language
 */
export function codeBlock(text, language) {
  const shown = el("code", {}, text);
  const pre = el("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, shown);
  const copy = copyButton("Copy", () => shown.textContent, { class: "small", "aria-label": "Copy the code" });
  return el("div", { class: "command" }, pre, copy);
}

function item(text) {
  const [whole, indent, number] = ITEM.exec(text) ?? ["", "", ""];
  const node = el("li", {}, `${number ?? "\u2022"} `, ...set(text.slice(whole.length)));
  node.style.marginLeft = `${Math.min(indent.length, 12) / 2}em`;
  return node;
}

function table(lines) {
  const [head, , ...rows] = lines;
  const row = (line, name) =>
    el("tr", {}, ...cellsOf(line).map((cell) => el(name, {}, ...set(cell))));
  const body = rows.map((line) => row(line, "td"));
  return el(
    "div",
    { class: "wide", tabindex: "0" },
    el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, ...body)),
    copyButton("Copy", () => lines.join("\n"), { class: "quiet small", "aria-label": "Copy the table" }),
  );
}

/** @param {string} line */
export function cellsOf(line) {
  const cells = line.trim().replace(/^\||\|$/g, "");
  return cells.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function set(text) {
  if (text.length > SET_CHARS) return [text];
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(SET)) {
    const [whole, , code, strong, em] = found;
    parts.push(text.slice(at, found.index), el(code ? "code" : strong ? "strong" : "em", {}, code ?? strong ?? em));
    at = found.index + whole.length;
  }
  return [...parts, text.slice(at)];
}
