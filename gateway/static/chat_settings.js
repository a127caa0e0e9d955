/** @file Holds the playground's form: the models, their system prompt, and how they sample. */

import { gatewayUrl } from "./api.js";
import { byId, el, keyed, setText } from "./dom.js";
import { onVisit } from "./router.js";

/** @type {{id: "temperature" | "top_p" | "max_tokens" | "seed", label: string, least: number, most: number, isWhole: boolean}[]} */
const NUMBERS = [
  { id: "temperature", label: "Temperature", least: 0, most: 2, isWhole: false },
  { id: "top_p", label: "Top p", least: 0.01, most: 1, isWhole: false },
  { id: "max_tokens", label: "Max tokens", least: 1, most: 1_000_000, isWhole: true },
  { id: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, isWhole: true },
];

const FIELDS = ["model", "second", "system", ...NUMBERS.map(({ id }) => id)];

/** Models that a link asks for, until it is known which ones there are.
 * @type {Record<string, string>} */
const wanted = {};

/**
 * Offers the models that chat. A choice stays while its model does.
 * @param {import("./types.js").Model[]} models
 */
function offerModels(models) {
  const names = models.filter(({ features }) => features.includes("chat")).map(({ id }) => id);
  for (const select of [byId("model"), byId("second")]) {
    const chosen = select.value;
    keyed(
      select,
      names,
      (name) => name,
      (name) => ({ node: el("option", { value: name }, name), update: () => {} }),
    );
    if (names.includes(chosen)) select.value = chosen;
    else if (select.id === "second" && names.length > 1)
      select.value = names.find((name) => name !== byId("model").value) ?? "";
    const asked = wanted[select.id];
    if (asked && names.includes(asked)) select.value = asked;
    if (asked) complain(names.includes(asked) ? "" : `The link asks for ${asked}, which nobody runs now.`);
    delete wanted[select.id];
  }
  show();
}

/**
 * Says what is wrong with the settings; nothing is when it is empty.
 * @param {string} problem
 */
export function complain(problem) {
  if (problem) byId("more").open = true;
  setText(byId("settings-problem"), problem);
  byId("settings-problem").hidden = !problem;
}

/**
 * The one that is chosen, or both that are compared.
 * @returns {string[]}
 */
export function chosenModels() {
  const [first, second] = [byId("model").value, byId("second").value];
  if (!first) return [];
  return byId("compare").checked && second ? [first, second] : [first];
}

/**
 * The models that are chosen and see no images.
 * @param {import("./types.js").Model[]} models
 */
export function blindOnes(models) {
  return chosenModels().filter((name) => !models.some(({ id, features }) => id === name && features.includes("images")));
}

/**
 * A request of this conversation, as the form has it. Null where a field makes no sense: the form says which.
 * @param {string} model
 * @param {import("./types.js").Message[]} messages
 * @returns {import("./types.js").ChatBody | null}
 */
export function chatBody(model, messages) {
  const system = byId("system").value.trim();
  const body = {
    model,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const { id, label, least, most, isWhole } of NUMBERS) {
    const field = byId(id);
    const value = field.value === "" ? null : Number(field.value);
    const isGood =
      !field.validity.badInput &&
      (value === null || (value >= least && value <= most && (!isWhole || Number.isInteger(value))));
    field.setAttribute("aria-invalid", String(!isGood));
    if (!isGood) {
      complain(`${label} is ${isWhole ? "a whole number" : "a number"} from ${least} to ${most}.`);
      field.focus();
      return null;
    }
    if (value !== null) body[id] = value;
  }
  complain("");
  return body;
}

/** The address of the playground with these settings. */
export function link() {
  const given = new URLSearchParams(
    FIELDS.map((id) => [id, byId(id).value]).filter(([id, value]) => value && (id !== "second" || byId("compare").checked)),
  );
  return gatewayUrl(`#/playground?${given}`);
}

/**
 * Fills the form with what such an address says.
 * @param {URLSearchParams} given
 */
function fill(given) {
  for (const id of FIELDS) {
    const value = given.get(id);
    if (value === null) continue;
    if (id === "model" || id === "second") wanted[id] = value;
    else byId(id).value = value;
  }
  byId("compare").checked ||= given.has("second");
  show();
}

let onChange = () => {};

function show() {
  byId("second-row").hidden = !byId("compare").checked;
  setText(byId("chosen"), chosenModels().join(", "));
  onChange();
}

/**
 * @param {import("./live.js").Store} store
 * @param {() => void} told when another model may be chosen
 */
export function startSettings(store, told) {
  onChange = told;
  byId("more").open = matchMedia("(min-width: 861px)").matches; // on a phone the conversation comes first
  const offer = () => offerModels(store.sections.models ?? []);
  store.on("models", offer);
  onVisit("playground", (_, given) => {
    fill(given);
    if (store.sections.models) offer();
  });
  byId("settings").addEventListener("change", show);
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
}
