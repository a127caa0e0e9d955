/** @file Computes where the points of a chart lie: scales, ticks and paths. Pure. */

/**
 * At least four round steps from 0, the last at or over the highest value.
 * @param {number} highest
 * @returns {number[]}
 */
export function ticks(highest) {
  if (!(highest > 0)) return [0, 1];
  const raw = highest / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = /** @type {number} */ ([1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999)) * power;
  const steps = Math.ceil(highest / step - 1e-9);
  return Array.from({ length: steps + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/**
 * The mean of each value and of those before it, `window` in all. Unknown ones say nothing.
 * @param {(number | null)[]} values
 * @param {number} window
 */
export function smoothed(values, window) {
  return values.map((_, i) => mean(values.slice(Math.max(0, i + 1 - window), i + 1)));
}

/** @param {(number | null)[]} values */
export function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

/**
 * A line through the values at x(0), x(1), ...; a null is a gap, and a value between two gaps is a dot.
 * @param {(number | null)[]} values
 * @param {(index: number) => number} x
 * @param {(value: number) => number} y
 */
export function linePath(values, x, y) {
  return runs(values)
    .map(([from, to]) => {
      const points = [];
      for (let i = from; i < to; i++) points.push(`${round(x(i))} ${round(y(/** @type {number} */ (values[i])))}`);
      return points.length === 1 ? `M${points[0]}h0` : `M${points.join("L")}`;
    })
    .join("");
}

/**
 * The same, filled down to the base.
 * @param {(number | null)[]} values
 * @param {(index: number) => number} x
 * @param {(value: number) => number} y
 */
export function areaPath(values, x, y) {
  return runs(values)
    .filter(([from, to]) => to - from > 1)
    .map(([from, to]) => {
      const points = [];
      for (let i = from; i < to; i++) points.push(`${round(x(i))} ${round(y(/** @type {number} */ (values[i])))}`);
      return `M${round(x(from))} ${round(y(0))}L${points.join("L")}L${round(x(to - 1))} ${round(y(0))}Z`;
    })
    .join("");
}

/**
 * From where to where there are values without a gap.
 * @param {(number | null)[]} values
 * @returns {[number, number][]}
 */
export function runs(values) {
  const found = [];
  let from = -1;
  values.forEach((value, i) => {
    if (value === null) from = -1;
    else if (from < 0) found.push([(from = i), i + 1]);
    else found[found.length - 1][1] = i + 1;
  });
  return found;
}

function round(number) {
  return Math.round(number * 10) / 10;
}
