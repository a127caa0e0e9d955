/** @file Runs the playground: one conversation, with one model or two, for as long as the page lasts. */

import { Answer } from "./answer.js";
import { gatewayUrl } from "./api.js";
import { chatBody, chosenModels, complain, link, startSettings } from "./chat_settings.js";
import { copies } from "./copy.js";
import { byId, el, setText } from "./dom.js";
import { currentKey } from "./key.js";
import { asCurl, asPython } from "./snippets.js";

/** @typedef {import("./types.js").Message} Message */
/** @typedef {{prompt: string, answers: Answer[], node: Element}} Turn */

const EXAMPLE = "What is p2pnet?";

/** How near its end a reader of the conversation is for it to be followed. */
const FOLLOWS_PX = 80;

export function startPlayground(store) {
  let turns = [];
  let running = null;
  let editing = null;
  const talk = byId("conversation");
  const prompt = byId("prompt");

  /**
   * What is said before a turn to whoever answers in this column. A turn that failed is not said.
   * @param {number} before how many turns
   * @param {number} column
   * @returns {Message[]}
   */
  function history(before, column) {
    return turns.slice(0, before).flatMap(({ prompt, answers }) => {
      const answer = answers[column] ?? answers[0];
      if (answer.hasFailed || !answer.text) return [];
      return /** @type {Message[]} */ ([
        { role: "user", content: prompt },
        { role: "assistant", content: answer.text },
      ]);
    });
  }

  function send(text) {
    const at = editing ? turns.indexOf(editing) : turns.length;
    const bodies = bodiesFor(text, at);
    if (!bodies) return false;
    edit(null);
    turns.splice(at).forEach(({ node }) => node.remove());
    const again = el("button", { type: "button", class: "quiet small" }, "Edit");
    const asked = el("div", { class: "asked" }, el("h3", { class: "unseen" }, "You"), el("p", {}, text), again);
    const turn = { prompt: text, answers: [], node: el("div", { class: "turn" }, asked) };
    again.addEventListener("click", () => edit(turn === editing ? null : turn));
    talk.append(turn.node);
    turns.push(turn);
    answer(bodies);
    return true;
  }

  /**
   * What is sent next takes the place of this turn and of all after it; null: it comes after them.
   * @param {Turn | null} turn
   */
  function edit(turn) {
    if (running) return;
    editing?.node.classList.remove("editing");
    if (editing && !turn) prompt.value = "";
    editing = turn;
    if (!turn) return;
    turn.node.classList.add("editing");
    prompt.value = turn.prompt;
    prompt.focus();
  }

  function regenerate() {
    edit(null);
    const turn = turns[turns.length - 1];
    const bodies = bodiesFor(turn.prompt, turns.length - 1);
    if (!bodies) return;
    turn.node.querySelector(".answers")?.remove();
    answer(bodies);
  }

  function bodiesFor(text, before) {
    const models = chosenModels();
    if (!models.length) {
      complain("No model that chats is here at the moment. It is listed as soon as a worker brings one.");
      return null;
    }
    const bodies = models.map((model, i) => chatBody(model, [...history(before, i), { role: "user", content: text }]));
    return bodies.every((body) => body !== null) ? bodies : null;
  }

  async function answer(bodies) {
    const turn = turns[turns.length - 1];
    running = new AbortController();
    const { signal } = running;
    turn.answers = bodies.map(({ model }) => new Answer(model, store));
    turn.node.append(el("div", { class: "answers" }, ...turn.answers.map(({ node }) => node)));
    show();
    follow(true);
    setText(byId("said"), "Answering.");
    await Promise.allSettled(turn.answers.map((one, i) => one.run(bodies[i], signal, () => follow(false))));
    running = null;
    setText(
      byId("said"),
      turn.answers.map(({ model, outcome }) => (bodies.length > 1 ? `${model}: ${outcome}` : outcome)).join(" "),
    );
    show();
  }

  function follow(isAlways) {
    if (isAlways || talk.scrollHeight - talk.scrollTop - talk.clientHeight < FOLLOWS_PX)
      talk.scrollTop = talk.scrollHeight;
  }

  function show() {
    const isRunning = running !== null;
    const hadFocus = document.activeElement === byId("stop") || document.activeElement === byId("again");
    byId("hollow").hidden = turns.length > 0;
    byId("send").disabled = isRunning;
    byId("stop").hidden = !isRunning;
    byId("again").hidden = isRunning || !turns.length;
    byId("clear").hidden = isRunning || !turns.length;
    if (hadFocus) prompt.focus(); // the button that had it is gone
  }

  function snippet(write) {
    const bodies = turns.length
      ? bodiesFor(turns[turns.length - 1].prompt, turns.length - 1)
      : bodiesFor(prompt.value.trim() || EXAMPLE, 0);
    return bodies ? write(gatewayUrl("v1"), bodies[0], currentKey() !== null) : null;
  }

  function submit() {
    const text = prompt.value.trim();
    if (text && running === null && send(text)) prompt.value = "";
  }

  startSettings(store);
  byId("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || byId("playground").hidden) return;
    running?.abort();
    edit(null);
  });
  byId("again").addEventListener("click", regenerate);
  byId("clear").addEventListener("click", () => {
    edit(null);
    turns = [];
    talk.replaceChildren();
    show();
    prompt.focus();
  });
  copies(byId("copy-link"), link);
  copies(byId("copy-curl"), () => snippet(asCurl));
  copies(byId("copy-python"), () => snippet(asPython));
}
