/** @file Shows what a volunteer runs, with this gateway's own addresses filled in. */

import { ApiError, ask } from "./api.js";
import { copyButton } from "./copy.js";
import { byId, el } from "./dom.js";
import { shellQuoted } from "./snippets.js";

/** @typedef {{initial_peers: string[], swarm: string | null, command: string}} Way */

const NOTEBOOK = "/static/volunteer.ipynb";

/** What a shell takes as it is, as addresses are. */
const PLAIN = /^[\w./:@-]+$/;

const INSTALL = "python3 -m venv .venv\n.venv/bin/pip install -c constraints.txt .";

/** @returns {() => Promise<void>} loads it anew */
export function startJoin() {
  const load = async () => {
    const body = byId("join-body");
    try {
      const response = await ask("p2pnet/v1/join");
      body.replaceChildren(...steps(await response.json()));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const again = el("button", { type: "button", onclick: load }, "Try again");
      body.replaceChildren(el("p", { class: "problem" }, error.message), again);
    }
  };
  load();
  return load;
}

/**
 * @param {Way} way
 * @returns {Element[]}
 */
function steps({ initial_peers, swarm, command }) {
  const plain = (/** @type {string} */ word) => (PLAIN.test(word) ? word : shellQuoted(word));
  const through = swarm
    ? `--swarm ${plain(swarm)}`
    : initial_peers.map((peer) => `--initial-peers ${plain(peer)}`).join(" ");
  return [
    el(
      "p",
      {},
      swarm
        ? "A worker runs a model on your machine and answers requests of the swarm's members with it. It stops when you say so."
        : "A worker runs a model on your machine and answers requests of strangers with it. It needs no account and nobody's permission, and it stops when you say so.",
    ),
    el(
      "ol",
      { class: "steps" },
      step(
        "Install",
        "You need Linux and Python 3.11 or later. In a checkout of p2pnet:",
        commandLine("Install", INSTALL),
      ),
      ...(swarm ? [invited(swarm)] : []),
      step(
        "Join",
        swarm
          ? "This lends the small bundled model to the swarm, to see how it goes:"
          : "This lends the small bundled model, to see how it goes. It joins through the peers that this gateway joined through:",
        commandLine("Join", `.venv/bin/${command}`),
      ),
      step(
        "Lend something useful",
        "A model of your own, or what a server on this machine already runs:",
        commandLine("Lend a model", `.venv/bin/p2pnet serve --model MODEL ${through}`),
        commandLine("Lend what Ollama runs", `.venv/bin/p2pnet serve --upstream http://127.0.0.1:11434 ${through}`),
      ),
    ),
    card(
      "Behind a router that lets nobody in",
      el(
        "p",
        {},
        "There is nothing to do: the worker finds out, and is reached through a relay.",
      ),
    ),
    ...(swarm ? [] : [notebook(initial_peers)]),
    card(
      "Before you do",
      el(
        "ul",
        {},
        el(
          "li",
          {},
          "Your worker reads the prompts that it answers, and so does the gateway that sends them. Whoever asks is told so.",
        ),
        el("li", {}, "Others see your machine's peer id, its addresses, which models it runs and how busy it is."),
        el(
          "li",
          {},
          "The machine stays yours: ",
          el("code", {}, "--schedule"),
          " lends it at your hours, ",
          el("code", {}, "--pause-when-busy"),
          " not while you use it, and Ctrl-C ends it after the running answers.",
        ),
      ),
    ),
  ];
}

/** @param {string} swarm */
function invited(swarm) {
  return step(
    "Become a member",
    `This gateway is in the private swarm ${swarm}. Ask whoever made it for an invitation, and paste it here:`,
    commandLine("Become a member", ".venv/bin/p2pnet swarm join"),
  );
}

/** @param {string[]} initial_peers */
function notebook(initial_peers) {
  return card(
    "In a notebook",
    el(
      "p",
      {},
      "The same, cell by cell, for a hosted notebook or your own: ",
      el("a", { href: NOTEBOOK, download: "volunteer.ipynb" }, "volunteer.ipynb"),
      ". It asks for one of these addresses:",
    ),
    ...initial_peers.map((peer) => commandLine("Address", peer)),
  );
}

/**
 * @param {string} title
 * @param {string} text
 * @param {...Element} commands
 */
function step(title, text, ...commands) {
  return el("li", { class: "card" }, el("h2", {}, title), el("p", {}, text), ...commands);
}

/**
 * @param {string} title
 * @param {...Element} content
 */
function card(title, ...content) {
  return el("section", { class: "card" }, el("h2", {}, title), ...content);
}

/**
 * @param {string} label
 * @param {string} text
 */
function commandLine(label, text) {
  return el(
    "div",
    { class: "command" },
    el("pre", { tabindex: "0", "aria-label": label }, el("code", {}, text)),
    copyButton("Copy", () => text, { class: "small", "aria-label": `Copy: ${label}` }),
  );
}
