/** @file Shows what a volunteer runs, with this gateway's own addresses filled in. */

import { ApiError, ask } from "./api.js";
import { commandLine } from "./copy.js";
import { byId, el } from "./dom.js";
import { shellQuoted } from "./snippets.js";

/** @typedef {import("./types.js").Way} Way */

const NOTEBOOK = "/static/volunteer.ipynb";

/** What a shell takes as it is, as addresses are. */
const PLAIN = /^[\w./:@,-]+$/;

/** Whatever its version: a shell finds the one that is there. */
const WHEEL = "p2pnet-*.whl";
const INSTALL = `pipx install ${WHEEL}`;
const AT_ONCE = `uvx --torch-backend cpu --from ${WHEEL}`;

const MAX_INVITED = 4;

/** What leads back to the machine that says it, and what leads nowhere outside of its network. */
const OWN = /^\/(ip4\/127\.|ip6\/::1\/|dns[46]?\/localhost\/)/;
const HOME = "(10|192\\.168|172\\.(1[6-9]|2\\d|3[01])|169\\.254)\\.";
const NEAR = new RegExp(`^/(ip4/${HOME}|ip6/f[cde])`);
/** The same of the name by which this page was found. */
const OWN_HOST = /^(localhost|127\..*|\[::1\])$/;
const NEAR_HOST = new RegExp(`^(${HOME}.*|\\[f[cde].*|[^.:]+|.*\\.local)$`);

/**
 * The addresses that somebody can dial who found this page at that host.
 * @param {string[]} addresses
 * @param {string} host
 */
export function reachableFrom(addresses, host) {
  if (OWN_HOST.test(host)) return addresses;
  const isNear = NEAR_HOST.test(host);
  return addresses.filter((address) => !OWN.test(address) && (isNear || !NEAR.test(address)));
}

function plain(word) {
  return PLAIN.test(word) ? word : shellQuoted(word);
}

/**
 * The flags that lead into this gateway's network, from the host at which somebody found this page.
 * @param {Way} way
 * @param {string} host
 */
export function through({ initial_peers, swarm }, host) {
  if (swarm) return `--swarm ${plain(swarm)}`;
  const peers = reachableFrom(initial_peers, host);
  return (peers.length ? peers : ["ADDRESS"]).map((peer) => `--initial-peers ${plain(peer)}`).join(" ");
}

/**
 * @param {import("./live.js").Store} store
 * @returns {() => Promise<void>} loads it anew
 */
export function startJoin(store) {
  const load = async () => {
    const body = byId("join-body");
    try {
      const response = await ask("p2pnet/v1/join");
      const way = await response.json();
      store.set("join", way);
      body.replaceChildren(...steps(way));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const again = el("button", { type: "button", onclick: load }, "Try again");
      body.replaceChildren(el("p", { class: "problem" }, error.message), again);
    }
  };
  load();
  return load;
}

function steps(way) {
  const { initial_peers, swarm } = way;
  const peers = reachableFrom(initial_peers, location.hostname);
  const flags = through(way, location.hostname);
  const lendsTiny = `p2pnet serve --model tiny ${flags}`;
  const joins = peers.length
    ? "It joins through the peers that this gateway joined through:"
    : "This gateway joined through addresses that lead nowhere from your machine. Ask whoever runs it for one that does, and put it for ADDRESS:";
  return [
    el(
      "p",
      {},
      swarm
        ? "A worker runs a model on your machine and answers requests of the swarm's members with it. It stops when you say so."
        : "A worker runs a model on your machine and answers requests of strangers with it. It needs no account and nobody's permission, and it stops when you say so.",
    ),
    card("Before you do", beforehand()),
    el(
      "ol",
      { class: "steps" },
      step(
        "Install",
        "You need Python 3.11 or later, on Linux, macOS or Windows with WSL2, and one file, the wheel of a release. Where that file is:",
        commandLine("Install", INSTALL),
      ),
      ...(swarm ? [invited(swarm)] : []),
      step(
        "Join",
        `This lends the small bundled model, to see how it goes. ${swarm ? "" : joins}`,
        commandLine("Join", lendsTiny),
        ...(swarm ? [] : [el("p", {}, "With uv this line does it all, without installing first, and with torch's build for CPUs:")]),
        ...(swarm ? [] : [commandLine("Install and join", `${AT_ONCE} ${lendsTiny}`)]),
      ),
      step(
        "Lend something useful",
        "A model of your own, or what a server on this machine already runs:",
        commandLine("Lend a model", `p2pnet serve --model MODEL ${flags}`),
        commandLine("Lend what Ollama runs", `p2pnet serve --upstream http://127.0.0.1:11434 ${flags}`),
      ),
    ),
    ...(swarm || !peers.length ? [] : [invitation(peers)]),
    ...(swarm ? [] : [notebook(peers)]),
  ];
}

function beforehand() {
  const code = (text) => el("code", {}, text);
  return el(
    "ul",
    {},
    el(
      "li",
      {},
      "A CPU is enough, and a GPU is used where there is one. Installing loads 1.4 GB with torch's build for CPUs, 2.9 GB or more with the one for CUDA, which pip takes on Linux; a model comes on top, but for the bundled one.",
    ),
    el(
      "li",
      {},
      "The machine stays yours: ",
      code("--schedule"),
      " lends it at your hours, ",
      code("--pause-when-busy"),
      " not while you use it, and Ctrl-C ends it after the running answers.",
    ),
    el(
      "li",
      {},
      "Your worker reads the prompts that it answers, and so does the gateway that sends them. Whoever asks is told so.",
    ),
    el("li", {}, "Behind a router that lets nobody in there is nothing to do: the worker is reached through a relay."),
    el("li", {}, "Others see your machine's peer id, its addresses, which models it runs and how busy it is."),
  );
}

function invited(swarm) {
  return step(
    "Become a member",
    `This gateway is in the private swarm ${swarm}. Ask whoever made it for an invitation, and paste it here:`,
    commandLine("Become a member", "p2pnet swarm join"),
  );
}

function invitation(peers) {
  const line = `p2pnet-join:${peers.slice(0, MAX_INVITED).join(",")}`;
  return card(
    "Tell somebody",
    el("p", {}, "This invitation is no secret. Whoever gets it lends a machine with it, or asks through a gateway of their own:"),
    commandLine("Lend by invitation", `p2pnet serve --model tiny --invite ${plain(line)}`),
    commandLine("Ask by invitation", `p2pnet gateway --invite ${plain(line)}`),
  );
}

function notebook(peers) {
  return card(
    "In a notebook",
    el(
      "p",
      {},
      "The same, cell by cell, for a hosted notebook or your own: ",
      el("a", { href: NOTEBOOK, download: "volunteer.ipynb" }, "volunteer.ipynb"),
      peers.length ? ". It asks for one of these addresses:" : ". It asks for an address, too.",
    ),
    ...peers.map((peer) => commandLine("Address", peer)),
  );
}

function step(title, text, ...commands) {
  return el("li", { class: "card" }, el("h2", {}, title), el("p", {}, text), ...commands);
}

function card(title, ...content) {
  return el("section", { class: "card" }, el("h2", {}, title), ...content);
}
