/** @file Shows one view and hides the others, which stay as they are: #/ is the overview. */

import { byId } from "./dom.js";

/** @type {Record<string, string>} */
const VIEWS = { "#/": "overview", "#/playground": "playground", "#/join": "join" };

/** @type {Record<string, string>} */
const TITLES = { overview: "Overview", playground: "Playground", join: "Join" };

/** @param {boolean} isFirst on the first view nobody has asked to be led anywhere */
function show(isFirst) {
  const hash = location.hash in VIEWS ? location.hash : "#/";
  for (const id of Object.values(VIEWS)) byId(id).hidden = id !== VIEWS[hash];
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === hash) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[VIEWS[hash]]} \u00b7 p2pnet gateway`;
  if (isFirst) return;
  scrollTo(0, 0);
  byId(`${VIEWS[hash]}-title`).focus({ preventScroll: true });
}

export function startRouter() {
  addEventListener("hashchange", () => show(false));
  byId("skip").addEventListener("click", (/** @type {Event} */ event) => {
    event.preventDefault(); // the hash is the view's
    byId("main").focus();
  });
  show(true);
}
