/** @file Writes a request as a command and as a program, quoted so that every text arrives as it was written. Pure.
 *
 * The key is never in them: they read it from the environment. */

/** @typedef {import("./types.js").ChatBody} ChatBody */

export const KEY_VARIABLE = "P2PNET_API_KEY";

/**
 * For a shell of POSIX.
 * @param {string} text
 */
export function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * @param {string} base the gateway's URL with /v1 at its end
 * @param {ChatBody} body
 * @param {boolean} hasKey
 */
export function asCurl(base, body, hasKey) {
  const lines = [
    `curl -N ${shellQuoted(`${base}/chat/completions`)}`,
    "-H 'Content-Type: application/json'",
    ...(hasKey ? [`-H "Authorization: Bearer $${KEY_VARIABLE}"`] : []),
    `-d ${shellQuoted(JSON.stringify(body, null, 2))}`,
  ];
  return lines.join(" \\\n  ");
}

/**
 * With the `openai` package.
 * @param {string} base
 * @param {ChatBody} body
 * @param {boolean} hasKey
 */
export function asPython(base, body, hasKey) {
  const key = hasKey ? `os.environ["${KEY_VARIABLE}"]` : '"unused"';
  const given = Object.entries(body).filter(([name]) => name !== "stream_options");
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${pythonLiteral(base)}, api_key=${key})`,
    "stream = client.chat.completions.create(",
    ...given.map(([name, value]) => `    ${name}=${pythonLiteral(value, 4)},`),
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    "print()",
    "",
  ].join("\n");
}

/**
 * A value of JSON as Python writes it. JSON's strings are Python's too.
 * @param {unknown} value
 * @param {number} [indent]
 * @returns {string}
 */
export function pythonLiteral(value, indent = 0) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    const inner = " ".repeat(indent + 4);
    const items = value.map((item) => `${inner}${pythonLiteral(item, indent + 4)},\n`).join("");
    return value.length ? `[\n${items}${" ".repeat(indent)}]` : "[]";
  }
  if (typeof value === "object") {
    const items = Object.entries(value).map(
      ([name, item]) => `${JSON.stringify(name)}: ${pythonLiteral(item, indent)}`,
    );
    return `{${items.join(", ")}}`;
  }
  return JSON.stringify(value);
}
