/** @file Says whether what the page shows is current, and since when it is not. */

import { byId, setText } from "./dom.js";
import { clock } from "./format.js";

const SAID = { connecting: "connecting", live: "live", reconnecting: "reconnecting", locked: "needs a key" };

/** How long a page may be without news before it says so at length: a reconnection is faster than that. */
const STALE_MS = 2_000;

/**
 * @param {() => void} askForKey
 * @returns {(state: import("./live.js").LiveState) => void}
 */
export function freshness(askForKey) {
  const light = byId("live");
  const banner = byId("banner");
  let state = "connecting";
  let lastMs = null;
  let lostMs = Date.now();

  function show() {
    light.dataset.state = state;
    setText(light.lastElementChild, SAID[state]);
    const isStale = state === "reconnecting" && Date.now() - lostMs > STALE_MS;
    document.body.classList.toggle("stale", isStale && lastMs !== null);
    banner.hidden = !isStale && state !== "locked";
    setText(banner, state === "locked" ? "This gateway asks for a key: nothing is shown without one." : words());
  }

  function words() {
    if (lastMs === null) return "The gateway does not answer. Trying again.";
    return `The gateway does not answer. This is how it was at ${clock(new Date(lastMs))}. Trying again.`;
  }

  setInterval(show, 1000);
  return (next) => {
    if (next === "live") lastMs = Date.now();
    else if (state === "live") lostMs = Date.now();
    if (next === "locked") askForKey();
    state = next;
    show();
  };
}
