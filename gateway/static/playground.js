/** @file Runs the playground: one conversation, with one model or two, for as long as the page lasts. */

import { Answer } from "./answer.js";
import { gatewayUrl } from "./api.js";
import { blindOnes, chatBody, chosenModels, complain, link, startSettings } from "./chat_settings.js";
import { copies } from "./copy.js";
import { byId, el, setText } from "./dom.js";
import { attach, contentOf, images, picture, say, startImages } from "./images.js";
import { currentKey } from "./key.js";
import { asCurl, asPython } from "./snippets.js";

/** @typedef {import("./types.js").Message} Message */
/** @typedef {{prompt: string, images: string[], answers: Answer[], node: Element}} Turn */

/** Stands in a command for an image, which would be longer than a shell takes. */
const ANY_IMAGE = "data:image/jpeg;base64,IMAGE";

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
   * What is said before a turn to whoever answers in this column. A turn that failed is not said, nor is an image told to
   * who sees none.
   * @param {number} before how many turns
   * @param {number} column
   * @param {boolean} sees
   * @returns {Message[]}
   */
  function history(before, column, sees) {
    return turns.slice(0, before).flatMap(({ prompt, images, answers }) => {
      const answer = answers[column] ?? answers[0];
      if (answer.hasFailed || !answer.text) return [];
      return /** @type {Message[]} */ ([
        { role: "user", content: contentOf(prompt, sees ? images : []) },
        { role: "assistant", content: answer.text },
      ]);
    });
  }

  function send(text, urls) {
    const at = editing ? turns.indexOf(editing) : turns.length;
    const bodies = bodiesFor(text, urls, at);
    if (!bodies) return false;
    edit(null);
    turns.splice(at).forEach(({ node }) => node.remove());
    const again = el("button", { type: "button", class: "quiet small" }, "Edit");
    const seen = urls.map((url, i) => picture(url, `Image ${i + 1}`));
    const you = el("h3", { class: "unseen" }, "You");
    const asked = el("div", { class: "asked" }, you, el("div", { class: "thumbs" }, ...seen), el("p", {}, text), again);
    const turn = { prompt: text, images: urls, answers: [], node: el("div", { class: "turn" }, asked) };
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
    if (editing && !turn) {
      prompt.value = "";
      attach([]);
    }
    editing = turn;
    if (!turn) return;
    turn.node.classList.add("editing");
    prompt.value = turn.prompt;
    attach(turn.images);
    prompt.focus();
  }

  function regenerate() {
    edit(null);
    const turn = turns[turns.length - 1];
    const bodies = bodiesFor(turn.prompt, turn.images, turns.length - 1);
    if (!bodies) return;
    turn.node.querySelector(".answers")?.remove();
    answer(bodies);
  }

  function blindness() {
    const blind = blindOnes(store.sections.models ?? []);
    return blind.length ? `${blind.join(" and ")} cannot read images.` : "";
  }

  function bodiesFor(text, urls, before) {
    const models = chosenModels();
    if (!models.length) {
      complain("No model that chats is here at the moment. It is listed as soon as a worker brings one.");
      return null;
    }
    if (urls.length && blindness()) {
      say(`${blindness()} Choose a model that can, or take them away.`);
      return null;
    }
    const content = contentOf(text, urls);
    const sees = !blindness();
    const bodies = models.map((model, i) => chatBody(model, [...history(before, i, sees), { role: "user", content }]));
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
    const last = turns[turns.length - 1];
    const bodies = last
      ? bodiesFor(last.prompt, last.images, turns.length - 1)
      : bodiesFor(prompt.value.trim() || EXAMPLE, images(), 0);
    for (const { content } of bodies?.[0].messages ?? [])
      if (Array.isArray(content)) content.forEach((part) => part.image_url && (part.image_url.url = ANY_IMAGE));
    return bodies ? write(gatewayUrl("v1"), bodies[0], currentKey() !== null) : null;
  }

  function submit() {
    const text = prompt.value.trim();
    if ((!text && !images().length) || running !== null || !send(text, images())) return;
    prompt.value = "";
    attach([]);
  }

  const offerImages = () => (byId("attach").hidden = !chosenModels().length || Boolean(blindness()));
  startSettings(store, offerImages);
  startImages(blindness);
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
