/** @file Reads server-sent events out of a stream of bytes that may be cut anywhere. Pure, but for `eventsOf`. */

/** @typedef {{event: string, data: string}} ServerEvent */

/**
 * Takes text in any pieces and gives the events that they complete, as https://html.spec.whatwg.org has it: lines end
 * in LF, CR or CRLF, comments are skipped, what the end of the stream cuts off is dropped.
 */
export class EventParser {
  #line = "";
  #event = "";
  /** @type {string[]} */
  #data = [];
  #isAfterCr = false;

  /**
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  feed(text) {
    const events = [];
    for (const piece of text.split(/(\r\n|\r|\n)/)) {
      if (piece !== "\n" && piece !== "\r" && piece !== "\r\n") {
        this.#line += piece;
        if (piece) this.#isAfterCr = false;
      } else if (piece === "\n" && this.#isAfterCr) {
        this.#isAfterCr = false; // the second half of a line's end that was cut
      } else {
        this.#isAfterCr = piece === "\r";
        this.#endLine(events);
      }
    }
    return events;
  }

  /** @param {ServerEvent[]} events */
  #endLine(events) {
    const line = this.#line;
    this.#line = "";
    if (line === "") {
      if (this.#data.length) events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
  }
}

/**
 * The events of a response's body, until it ends. `onBytes` is told whenever anything comes, comments too.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} [onBytes]
 * @returns {AsyncGenerator<ServerEvent>}
 */
export async function* eventsOf(body, onBytes = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // it has ended, or nobody reads it any more
  }
}
