/** @file Asks for the API key when the gateway wants one, keeps it for this tab alone, and forgets it on demand. */

import { byId, setText } from "./dom.js";

const STORED = "p2pnet-key";

let key = stored();

const listeners = new Set();

/** @returns {string | null} */
function stored() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null; // storage is forbidden here: the key lasts as long as the page
  }
}

export function currentKey() {
  return key;
}

/**
 * Be told when there is another key, or none.
 * @param {() => void} listener
 */
export function onKey(listener) {
  listeners.add(listener);
}

function change(next) {
  key = next;
  try {
    if (next === null) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, next);
  } catch {
    // as above
  }
  show();
  for (const listener of listeners) listener();
}

function show() {
  byId("key-button").hidden = key === null;
}

/** Ask for a key, saying why where one was refused. Does nothing while it is being asked for already. */
export function askForKey() {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  const problem = byId("key-problem");
  problem.hidden = key === null;
  setText(problem, key === null ? "" : "This key is not known here. Check it, or ask whoever runs the gateway.");
  dialog.showModal();
}

export function startKey() {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-button").addEventListener("click", () => change(null));
  byId("key-cancel").addEventListener("click", () => dialog.close());
  byId("key-form").addEventListener("submit", () => {
    const given = field.value.trim();
    field.value = "";
    if (given) change(given);
  });
  show();
}
