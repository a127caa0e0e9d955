/** @file Streams one answer of /v1/chat/completions, and measures it. Knows nothing of how it is shown. */

import { ApiError, ask, sentence } from "./api.js";
import { eventsOf } from "./sse.js";

/**
 * `tokens` are as the worker counted them, or the pieces that came while it has not said; the times are seconds since
 * the request was sent. `worker` is who began.
 * @typedef {{requestId: string, worker: string | null, tokens: number, isCounted: boolean, promptTokens: number | null,
 *   firstTokenS: number | null, lastTokenS: number, finishReason: string | null, isThinking: boolean,
 *   calls: {name: string, arguments: string}[]}} Answered
 */

/** Of one answer: more are no use to a reader. */
const MOST_CALLS = 64;

/** A request id of our own, by which the gateway can be asked about it later. */
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12)); // randomUUID belongs to secure contexts
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * Raises ApiError when the answer does not come whole; what came has been handed to `onText` then.
 * @param {import("./types.js").ChatBody} body
 * @param {{signal: AbortSignal, onText: (text: string, so_far: Answered) => void, now?: () => number}} options
 * @returns {Promise<Answered>}
 */
export async function streamChat(body, { signal, onText, now = () => performance.now() / 1000 }) {
  const requestId = newRequestId();
  const beganS = now();
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": requestId },
    body: JSON.stringify(body),
    signal,
  });
  const answered = {
    requestId,
    worker: response.headers.get("x-p2pnet-worker"),
    tokens: 0,
    isCounted: false,
    promptTokens: null,
    firstTokenS: null,
    lastTokenS: 0,
    finishReason: null,
    isThinking: false,
    calls: [],
  };
  for await (const { data } of eventsOf(/** @type {ReadableStream<Uint8Array>} */ (response.body))) {
    if (data === "[DONE]") return answered;
    const chunk = JSON.parse(data);
    const text = take(chunk, answered);
    if (!text && !chunk.choices?.[0]?.delta?.tool_calls) continue;
    answered.lastTokenS = now() - beganS;
    answered.firstTokenS ??= answered.lastTokenS;
    if (!answered.isCounted) answered.tokens += 1;
    onText(text, answered);
  }
  throw new ApiError("The connection ended before the answer was complete.");
}

/**
 * Notes what a chunk says of the answer, and gives its text.
 * @param {any} chunk
 * @param {Answered} answered
 * @returns {string}
 */
function take(chunk, answered) {
  if (chunk.error) throw new ApiError(sentence(String(chunk.error.message)));
  if (chunk.usage) {
    answered.tokens = chunk.usage.completion_tokens;
    answered.promptTokens = chunk.usage.prompt_tokens;
    answered.isCounted = true;
  }
  const choice = chunk.choices?.[0];
  answered.finishReason = choice?.finish_reason ?? answered.finishReason;
  for (const call of choice?.delta?.tool_calls ?? []) join(answered.calls, call);
  return said(choice?.delta ?? {}, answered);
}

/**
 * A call of a tool comes in pieces, each with the number of its call.
 * @param {Answered["calls"]} calls
 * @param {{index?: number, function?: {name?: string, arguments?: string}}} piece
 */
function join(calls, { index = calls.length, function: { name = "", arguments: more = "" } = {} }) {
  if (index >= MOST_CALLS) return;
  const call = (calls[index] ??= { name: "", arguments: "" });
  call.name += name;
  call.arguments += more;
}

/**
 * As JSON is read, where it is whole.
 * @param {string} text
 */
export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/**
 * The text of a delta. What a model thinks is shown before what it says, between the tags that most models write.
 * @param {{content?: string | null, reasoning_content?: string | null}} delta
 * @param {Answered} answered
 */
function said({ content, reasoning_content: thought }, answered) {
  const text = thought || content || "";
  const isThinking = text ? Boolean(thought) : answered.isThinking;
  if (isThinking === answered.isThinking) return text;
  answered.isThinking = isThinking;
  return (isThinking ? "<think>\n" : "\n</think>\n\n") + text;
}

/**
 * Of one answer after its first token; null while that is not known.
 * @param {Answered} answered
 */
export function tokensPerS({ tokens, firstTokenS, lastTokenS }) {
  if (firstTokenS === null || tokens < 2 || lastTokenS <= firstTokenS) return null;
  return (tokens - 1) / (lastTokenS - firstTokenS);
}
