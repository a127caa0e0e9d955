/** @file Shows one view and hides the others, which stay as they are. The address after # says which: `/` is the
 * overview, `/worker/ID` a worker's page; what follows a ? is for the view. */

import { byId } from "./dom.js";

const TITLES = { overview: "Overview", playground: "Playground", join: "Join", worker: "Worker", request: "Request" };

/** @typedef {(id: string, given: URLSearchParams) => void} Visit */

const visits = new Map();

/**
 * Whoever fills a view is told when it is shown: for which id, and with what behind the ?.
 * @param {string} view
 * @param {Visit} visit
 */
export function onVisit(view, visit) {
  visits.set(view, visit);
}

function show(isFirst) {
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id = ""] = path.split("/");
  const view = name in TITLES ? name : "overview";
  for (const one of Object.keys(TITLES)) byId(one).hidden = one !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${view === "overview" ? "" : view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} \u00b7 p2pnet gateway`;
  if (!isFirst) {
    scrollTo(0, 0);
    byId(`${view}-title`).focus({ preventScroll: true });
  }
  visits.get(view)?.(decoded(id), new URLSearchParams(query));
}

function decoded(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    return id;
  }
}

export function startRouter() {
  addEventListener("hashchange", () => show(false));
  addEventListener("click", ({ target }) => {
    if (target.closest("a")?.getAttribute("href") === location.hash) show(false); // what it led to may be filtered away
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the hash is the view's
    byId("main").focus();
  });
  show(true);
}
