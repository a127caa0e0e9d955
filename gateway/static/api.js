/** @file Asks the gateway: its address, the key, and its errors as sentences. Knows nothing of what is asked. */

import { currentKey } from "./key.js";

/** An error that a person may read. `status` is HTTP's; null where there was no answer at all. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number | null} status
   */
  constructor(message, status = null) {
    super(message);
    this.status = status;
  }
}

/**
 * This gateway's URL for a path, wherever a proxy has put it.
 * @param {string} path
 */
export function gatewayUrl(path) {
  return new URL(path, document.baseURI.replace(/#.*$/, "")).href;
}

/**
 * Raises ApiError unless the gateway answers well; an AbortError passes.
 * @param {string} path
 * @param {RequestInit & {headers?: Record<string, string>}} [options]
 */
export async function ask(path, options = {}) {
  const key = currentKey();
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(gatewayUrl(path), { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The gateway cannot be reached. See whether it still runs, and try again.");
  }
  if (!response.ok) throw new ApiError(await refusal(response), response.status);
  return response;
}

async function refusal(response) {
  const said = messageOf(await response.text().catch(() => ""));
  const wait = response.headers.get("retry-after");
  const advice = wait ? ` Try again in ${wait} s.` : "";
  return sentence(said || `The gateway answered with status ${response.status}.`) + advice;
}

function messageOf(body) {
  try {
    const { error } = JSON.parse(body);
    return typeof error === "string" ? error : String(error.message);
  } catch {
    return ""; // a proxy's page, or nothing
  }
}

/**
 * With a capital at its beginning and a point at its end.
 * @param {string} text
 */
export function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
