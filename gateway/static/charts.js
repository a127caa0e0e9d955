/** @file Chooses what the charts of the last hour draw of the series. How a chart is drawn is in chart.js. */

import { chart } from "./chart.js";
import { count, NOTHING, rate, seconds } from "./format.js";

/** @type {import("./chart.js").ChartOptions[]} */
const CHARTS = [
  {
    title: "Requests per second",
    say: perSecond,
    mark: plain,
    lines: [{ label: "requests", of: (point, step_s) => point.requests / step_s }],
  },
  {
    title: "Time to first token",
    say: seconds,
    mark: seconds,
    lines: [
      { label: "median (p50)", of: (point) => point.first_token_p50_s },
      { label: "p95", of: (point) => point.first_token_p95_s },
    ],
  },
  {
    title: "Tokens per second",
    say: perSecond,
    mark: plain,
    lines: [{ label: "tokens", of: (point, step_s) => point.tokens / step_s }],
  },
];

function perSecond(value) {
  return value === null ? NOTHING : `${rate(value)}/s`;
}

function plain(value) {
  return value < 1000 ? String(value) : count(value);
}

/**
 * @param {import("./live.js").Store} store
 * @returns {Element[]}
 */
export function charts(store) {
  const point = (at) => made.forEach((one) => one.point(at));
  const made = CHARTS.map((options) => chart(options, point));
  store.on("series", (series) => made.forEach(({ update }) => update(series)));
  return made.map(({ node }) => node);
}
