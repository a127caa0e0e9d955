/** @file Finds which workers gave an answer, and whether it went on elsewhere, in the gateway's own history. */

import { ask } from "./api.js";

const TRIES = 8;
const BETWEEN_MS = 150;

/** @typedef {{workers: string[], gapS: number | null}} Route in the order in which they gave tokens */

/**
 * The history is written once an answer is over, which its reader may learn a moment earlier. Null: nothing is told.
 * @param {string} requestId
 * @returns {Promise<Route | null>}
 */
export async function whoAnswered(requestId) {
  for (let i = 0; i < TRIES; i++) {
    const found = await reportOf(requestId).catch(() => null);
    if (found) return routeOf(found);
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
  }
  return null;
}

/** Null where the gateway remembers none. */
export async function reportOf(requestId) {
  const response = await ask(`p2pnet/v1/requests?limit=1&request_id=${encodeURIComponent(requestId)}`);
  const { requests } = await response.json();
  return requests.find(({ request_id }) => request_id === requestId) ?? null;
}

/**
 * Those that gave tokens that count: what a worker gave that was asked beside another, and was too late, does not.
 * @param {import("./types.js").RequestReport} report
 * @returns {Route}
 */
export function routeOf({ attempts, gap_s }) {
  const gave = attempts.filter(({ tokens }, i) => tokens > 0 || i === attempts.length - 1).map(({ worker }) => worker);
  const workers = gave.filter((worker, i) => worker !== gave[i - 1]);
  return { workers: gap_s === null ? workers.slice(-1) : workers, gapS: gap_s };
}
