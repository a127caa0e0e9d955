/** @file Holds the playground's form: the models, their system prompt, and how they sample. */

import { byId, el, keyed, setText } from "./dom.js";

/** @typedef {import("./types.js").ChatBody} ChatBody */
/** @typedef {import("./types.js").Message} Message */

/** @type {{id: "temperature" | "top_p" | "max_tokens" | "seed", label: string, least: number, most: number, isWhole: boolean}[]} */
const NUMBERS = [
  { id: "temperature", label: "Temperature", least: 0, most: 2, isWhole: false },
  { id: "top_p", label: "Top p", least: 0.01, most: 1, isWhole: false },
  { id: "max_tokens", label: "Max tokens", least: 1, most: 1_000_000, isWhole: true },
  { id: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, isWhole: true },
];

/**
 * Offers the models that chat. A choice stays while its model does.
 * @param {import("./types.js").Model[]} models
 */
export function offerModels(models) {
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
  }
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
 * A request of this conversation, as the form has it. Null where a field makes no sense: the form says which.
 * @param {string} model
 * @param {Message[]} messages
 * @returns {ChatBody | null}
 */
export function chatBody(model, messages) {
  const system = byId("system").value.trim();
  /** @type {ChatBody} */
  const body = {
    model,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  const problem = byId("settings-problem");
  for (const { id, label, least, most, isWhole } of NUMBERS) {
    const field = byId(id);
    const value = field.value === "" ? null : Number(field.value);
    const isGood =
      !field.validity.badInput &&
      (value === null || (value >= least && value <= most && (!isWhole || Number.isInteger(value))));
    field.setAttribute("aria-invalid", String(!isGood));
    if (!isGood) {
      byId("more").open = true;
      setText(problem, `${label} is ${isWhole ? "a whole number" : "a number"} from ${least} to ${most}.`);
      problem.hidden = false;
      field.focus();
      return null;
    }
    if (value !== null) body[id] = value;
  }
  problem.hidden = true;
  return body;
}

export function startSettings() {
  byId("more").open = matchMedia("(min-width: 861px)").matches; // on a phone the conversation comes first
  byId("compare").addEventListener("change", () => {
    byId("second-row").hidden = !byId("compare").checked;
  });
  byId("settings").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
}
