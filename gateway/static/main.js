/** @file Puts the page together. */

import { freshness } from "./freshness.js";
import { startJoin } from "./join.js";
import { askForKey, onKey, startKey } from "./key.js";
import { follow, Store } from "./live.js";
import { startOverview } from "./overview.js";
import { startPages } from "./pages.js";
import { startPlayground } from "./playground.js";
import { startRouter } from "./router.js";

const store = new Store();
startKey();
startOverview(store);
startPlayground(store);
startPages(store);
startRouter();
const loadJoin = startJoin(store);
const live = follow(store, freshness(askForKey));
onKey(() => {
  live.retry();
  loadJoin();
});
