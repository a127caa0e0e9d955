/** @file Draws one chart of the last hour as SVG, and says what it shows in words and as a table. */

import { areaPath, linePath, mean, smoothed, ticks } from "./chart_scale.js";
import { el, setText, svg } from "./dom.js";
import { clock } from "./format.js";

/** @typedef {import("./types.js").SeriesSection} SeriesSection */
/** @typedef {{label: string, of: (point: import("./types.js").Point, step_s: number) => number | null}} Line */
/** @typedef {{title: string, say: (value: number | null) => string, mark: (value: number) => string, lines: Line[]}} ChartOptions
 * `mark` is what stands beside the axis. */

const HOUR_S = 3600;
/** What a line is smoothed over: the same minute as the gateway's rates of now. Steps of ten seconds are noise. */
const WINDOW_S = 60;
const HEIGHT = 112;
const LEFT = 42;
const TOP = 8;
const BOTTOM = 20;
const ROW_S = 300;
/** A row of the table: five minutes. */

let made = 0;

/**
 * @param {ChartOptions} options
 * @param {(at: number | null) => void} onPoint told which point a reader points at, for all charts to mark it
 * @returns {{node: Element, update: (series: SeriesSection) => void, point: (at: number | null) => void}}
 */
export function chart({ title, say, mark, lines }, onPoint) {
  const id = `chart-${++made}`;
  const readout = el("strong");
  const moment = el("span", { class: "muted" });
  const picture = svg("svg", { role: "img", "aria-labelledby": `${id}-title ${id}-words`, height: HEIGHT });
  const inWords = el("p", { class: "unseen", id: `${id}-words` });
  const rows = el("div", { class: "rows" });
  const node = el(
    "figure",
    { class: "card chart" },
    el("figcaption", {}, el("h2", { id: `${id}-title` }, title)),
    el("p", { class: "readout", "aria-hidden": "true" }, readout, moment),
    picture,
    lines.length > 1 ? legend(lines) : null,
    inWords,
    el("details", {}, el("summary", {}, "As a table"), rows),
  );

  let series = null;
  let hovered = null;

  function valuesOf() {
    if (!series) return [];
    const { points, step_s } = series;
    return lines.map(({ of }) =>
      smoothed(
        points.map((point) => of(point, step_s)),
        WINDOW_S / step_s,
      ),
    );
  }

  function draw() {
    if (!series || !picture.clientWidth) return;
    const width = picture.clientWidth;
    const values = valuesOf();
    const scale = scaleOf(series, values, width);
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const parts = [...grid(scale, width, mark), ...values.flatMap((line, i) => drawn(line, i, scale))];
    if (hovered !== null)
      parts.push(svg("path", { class: "cursor", d: `M${scale.x(hovered)} ${TOP}V${HEIGHT - BOTTOM}` }));
    picture.replaceChildren(...parts);
    readOut(values);
  }

  function readOut(values) {
    if (!series) return;
    const at = hovered ?? series.points.length - 1;
    const said = values.map((line) => say(line[at] ?? null)).join(" / ");
    setText(readout, said);
    setText(moment, hovered === null ? "last minute" : `minute to ${clock(momentOf(series, at))}`);
  }

  picture.addEventListener("pointermove", (event) => {
    if (!series || !series.points.length) return;
    const { x } = scaleOf(series, valuesOf(), picture.clientWidth);
    const perPoint = x(1) - x(0);
    const at = Math.round((event.clientX - picture.getBoundingClientRect().left - x(0)) / perPoint);
    onPoint(Math.min(series.points.length - 1, Math.max(0, at)));
  });
  picture.addEventListener("pointerleave", () => onPoint(null));
  new ResizeObserver(draw).observe(picture);

  const update = (next) => {
    series = next;
    draw();
    setText(inWords, describe(series, valuesOf(), lines, say));
    rows.replaceChildren(asTable(title, series, lines, say));
  };
  const point = (at) => {
    hovered = at;
    draw();
  };
  return { node, update, point };
}

function legend(lines) {
  const marks = lines.map(({ label }, i) => el("span", {}, el("i", { class: `key key-${i}` }), label));
  return el("p", { class: "legend muted" }, ...marks);
}

/**
 * The hour ends with the last point, however few there are yet.
 * @param {SeriesSection} series
 * @param {(number | null)[][]} values
 * @param {number} width
 */
function scaleOf({ step_s, points }, values, width) {
  const marks = ticks(Math.max(0, ...values.flat().map((value) => value ?? 0)));
  const top = marks[marks.length - 1];
  const wide = (width - LEFT - 4) / (HOUR_S / step_s - 1);
  return {
    marks,
    x: (i) => width - 4 - (points.length - 1 - i) * wide,
    y: (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP),
  };
}

function grid({ marks, y }, width, markOf) {
  const across = marks.flatMap((mark) => [
    svg("path", { class: mark ? "grid" : "base", d: `M${LEFT} ${y(mark)}H${width - 4}` }),
    svg("text", { class: "tick", x: LEFT - 6, y: y(mark) + 3.5, "text-anchor": "end" }, mark ? markOf(mark) : "0"),
  ]);
  const along = [60, 45, 30, 15, 0].map((minutes) => {
    const x = LEFT + ((width - LEFT - 4) * (60 - minutes)) / 60;
    const anchor = minutes === 60 ? "start" : minutes ? "middle" : "end";
    return svg(
      "text",
      { class: "tick", x, y: HEIGHT - 4, "text-anchor": anchor },
      minutes === 60 ? "60 min ago" : minutes ? String(minutes) : "now",
    );
  });
  return [...across, ...(width < 330 ? [along[0], along[4]] : along)];
}

function drawn(values, index, { x, y }) {
  const line = svg("path", { class: `line line-${index}`, d: linePath(values, x, y) });
  return index ? [line] : [svg("path", { class: "area", d: areaPath(values, x, y) }), line];
}

function momentOf({ step_s, end, points }, index) {
  return new Date(new Date(end).getTime() - (points.length - 1 - index) * step_s * 1000);
}

function describe(series, values, lines, say) {
  const said = lines.map(({ label }, i) => {
    const known = values[i].map((value, at) => ({ value, at })).filter(({ value }) => value !== null);
    if (!known.length) return `${label}: nothing measured`;
    const highest = known.reduce((best, one) => (Number(one.value) > Number(best.value) ? one : best));
    const last = known[known.length - 1];
    return `${label}: ${say(last.value)} at last, at most ${say(highest.value)} at ${clock(momentOf(series, highest.at), false)}`;
  });
  return `The last hour. ${said.join("; ")}.`;
}

/**
 * The mean of every five minutes.
 * @param {string} title
 * @param {SeriesSection} series
 * @param {Line[]} lines
 * @param {(value: number | null) => string} say
 */
function asTable(title, series, lines, say) {
  const perRow = Math.max(1, Math.round(ROW_S / series.step_s));
  const body = el("tbody");
  for (let to = series.points.length; to > 0; to -= perRow) {
    const points = series.points.slice(Math.max(0, to - perRow), to);
    const cells = lines.map(({ of }) =>
      el("td", { class: "number" }, say(mean(points.map((point) => of(point, series.step_s))))),
    );
    body.append(el("tr", {}, el("th", { scope: "row" }, clock(momentOf(series, to - 1), false)), ...cells));
  }
  const heads = ["Five minutes to", ...lines.map(({ label }) => label)].map((text) => el("th", { scope: "col" }, text));
  return el(
    "table",
    { class: "small" },
    el("caption", { class: "unseen" }, `${title}, means of five minutes`),
    el("thead", {}, el("tr", {}, ...heads)),
    body,
  );
}
