/** @file The charts of the last hour: what is drawn of the series, in words too. How a chart is drawn is in chart.js. */

import { chart } from "./chart.js";
import { rate, seconds } from "./format.js";

/** @typedef {import("./types.js").Point} Point */
/** @typedef {import("./types.js").SeriesSection} SeriesSection */

/** @type {import("./chart.js").ChartOptions[]} */
const CHARTS = [
  {
    title: "Requests per second",
    say: (value) => (value === null ? "\u2013" : `${rate(value)}/s`),
    lines: [{ label: "requests", of: (point, step_s) => point.requests / step_s }],
  },
  {
    title: "Time to first token",
    say: seconds,
    lines: [
      { label: "median", of: (point) => point.first_token_p50_s },
      { label: "19 in 20 within", of: (point) => point.first_token_p95_s },
    ],
  },
  {
    title: "Tokens per second",
    say: (value) => (value === null ? "\u2013" : `${rate(value)}/s`),
    lines: [{ label: "tokens", of: (point, step_s) => point.tokens / step_s }],
  },
];

/**
 * @param {import("./live.js").Store} store
 * @returns {Element[]}
 */
export function charts(store) {
  const made = CHARTS.map(chart);
  store.on("series", (/** @type {SeriesSection} */ series) => made.forEach(({ update }) => update(series)));
  return made.map(({ node }) => node);
}
