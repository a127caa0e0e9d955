/** @file Keeps the page's data fresh: follows the gateway's live events, and says whether it does. */

import { ApiError, ask } from "./api.js";
import { eventsOf } from "./sse.js";

/** @typedef {"connecting" | "live" | "reconnecting" | "locked"} LiveState */

const SILENCE_MS = 40_000;
// The gateway says something every 15 s: after two that are missing, the line is dead.
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 5_000;

/** What is known, by section. Whoever shows one is told when it changes. */
export class Store {
  /** @type {import("./types.js").Sections} */
  sections = {};
  /** @type {Map<string, Set<(data: any) => void>>} */
  #listeners = new Map();

  /**
   * @param {keyof import("./types.js").Sections} name
   * @param {(data: any) => void} listener
   */
  on(name, listener) {
    this.#listeners.set(name, (this.#listeners.get(name) ?? new Set()).add(listener));
  }

  /**
   * @param {string} name
   * @param {any} data
   */
  set(name, data) {
    /** @type {any} */ (this.sections)[name] = data;
    for (const listener of this.#listeners.get(name) ?? []) listener(data);
  }

  /**
   * What a worker is called by its owner.
   * @param {string} id
   */
  nameOf(id) {
    return this.sections.workers?.workers.find((worker) => worker.id === id)?.name ?? "";
  }
}

/**
 * Of the workers only what is new is told; all of them at the beginning of a connection.
 * @param {Map<string, import("./types.js").Worker>} workers
 * @param {{changed: import("./types.js").Worker[], gone: string[], total: number}} said
 * @returns {import("./types.js").WorkersSection}
 */
export function withChanges(workers, { changed, gone, total }) {
  for (const worker of changed) workers.set(worker.id, worker);
  for (const id of gone) workers.delete(id);
  return { workers: [...workers.values()], total };
}

/**
 * Fills the store for as long as the page is open.
 * @param {Store} store
 * @param {(state: LiveState) => void} onState told at every event, so that it knows how old the data is
 * @returns {{retry: () => void}} connects anew, at once
 */
export function follow(store, onState) {
  let wake = () => {};
  let retryMs = FIRST_RETRY_MS;
  let connection = new AbortController();

  async function once() {
    connection = new AbortController();
    const workers = new Map();
    let timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => connection.abort(), SILENCE_MS);
    };
    try {
      heard();
      const response = await ask("p2pnet/v1/live", { signal: connection.signal });
      if (!response.body) return;
      for await (const { event, data } of eventsOf(response.body, heard)) {
        retryMs = FIRST_RETRY_MS;
        const said = JSON.parse(data);
        store.set(event, event === "workers" ? withChanges(workers, said) : said);
        onState("live");
      }
    } finally {
      clearTimeout(timer);
    }
  }

  async function forever() {
    for (;;) {
      let state = "reconnecting";
      await once().catch((error) => {
        if (error instanceof ApiError && error.status === 401) state = "locked";
      });
      onState(state);
      await new Promise((resolve) => {
        wake = () => resolve(undefined);
        if (state !== "locked") setTimeout(wake, retryMs);
      });
      retryMs = Math.min(LAST_RETRY_MS, retryMs * 2);
    }
  }

  forever();
  const retry = () => {
    retryMs = FIRST_RETRY_MS;
    connection.abort();
    wake();
  };
  return { retry };
}
