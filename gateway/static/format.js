/** @file Writes numbers, times and ids as people read them. Pure. */

export const NOTHING = "\u2013";

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** @param {number} number */
export function count(number) {
  return GROUPED.format(number);
}

/**
 * Two figures below ten; what is more than nothing never reads as nothing.
 * @param {number | null | undefined} number
 */
export function rate(number) {
  if (number === null || number === undefined) return NOTHING;
  if (number <= 0 || number >= 9.95) return count(Math.round(number));
  if (number < 0.005) return "<0.01";
  return number.toFixed(number < 0.095 ? 2 : 1);
}

/**
 * How fast one answer comes. What all answers together bring is another number.
 * @param {number | null | undefined} tokensPerS
 */
export function speed(tokensPerS) {
  return tokensPerS ? `${rate(tokensPerS)} tok/s` : NOTHING;
}

/**
 * How long something took.
 * @param {number | null | undefined} seconds
 */
export function seconds(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  return seconds < 59.5 ? `${Math.round(seconds)} s` : span(seconds);
}

/**
 * How long something has lasted, in its two largest units.
 * @param {number | null | undefined} seconds
 */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return two(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min");
  return two(Math.floor(whole / 86400), "d", Math.floor((whole % 86400) / 3600), "h");
}

function two(large, unit, small, smallUnit) {
  return small ? `${large} ${unit} ${small} ${smallUnit}` : `${large} ${unit}`;
}

/**
 * All is 100 %, and nothing less is.
 * @param {number | null | undefined} share
 */
export function percent(share) {
  if (share === null || share === undefined) return NOTHING;
  if (share >= 1) return "100 %";
  return `${Math.min(99.9, share * 100).toFixed(1)} %`;
}

/**
 * The end of a peer id: their beginnings are all alike.
 * @param {string} id
 */
export function shortId(id) {
  return id.length > 10 ? `\u2026${id.slice(-8)}` : id;
}

/**
 * A worker as people call it: its owner's name for it, else its id.
 * @param {string} id
 * @param {string} [name]
 */
export function called(id, name) {
  return name ? `${name} (${shortId(id)})` : shortId(id);
}

/**
 * The time of day here.
 * @param {Date} moment
 * @param {boolean} [withSeconds]
 */
export function clock(moment, withSeconds = true) {
  const parts = [moment.getHours(), moment.getMinutes(), ...(withSeconds ? [moment.getSeconds()] : [])];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/**
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
