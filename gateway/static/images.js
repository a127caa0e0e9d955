/** @file Holds the images that go with a message: chosen, pasted or dropped, made small. Knows nothing of conversations. */

import { byId, el, setText } from "./dom.js";

/** With one message. */
const MOST = 4;

/** Models look at no more; four of these fit a request with room to spare. */
const SIDE_PX = 1024;
const QUALITY = 0.85;

/** @type {string[]} data URLs */
let attached = [];

export function images() {
  return attached;
}

/** @param {string[]} urls */
export function attach(urls) {
  attached = urls;
  say("");
  byId("images").replaceChildren(
    ...attached.map((url, i) => {
      const away = () => {
        attach(attached.filter((_, n) => n !== i));
        byId("prompt").focus();
      };
      return el("button", { type: "button", class: "thumb", "aria-label": `Take image ${i + 1} away`, onclick: away }, picture(url, ""));
    }),
  );
}

/**
 * @param {string} url
 * @param {string} alt
 */
export function picture(url, alt) {
  return el("img", { src: url, alt });
}

/** @param {string} problem */
export function say(problem) {
  setText(byId("images-problem"), problem);
  byId("images-problem").hidden = !problem;
}

/**
 * What is asked, as OpenAI has it.
 * @param {string} text
 * @param {string[]} urls
 * @returns {import("./types.js").Message["content"]}
 */
export function contentOf(text, urls) {
  if (!urls.length) return text;
  const parts = urls.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [{ type: "text", text }, ...parts] : parts;
}

/**
 * How large an image becomes.
 * @param {number} width
 * @param {number} height
 */
export function fitted(width, height) {
  const scale = Math.min(1, SIDE_PX / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** What is transparent becomes white: JPEG has no such pixels. */
async function shrunk(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = fitted(bitmap.width, bitmap.height);
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", QUALITY);
}

/**
 * @param {() => string} refusal why no image can be taken now; empty where one can
 */
export function startImages(refusal) {
  async function take(files) {
    if (!files.length) return;
    const made = await Promise.all([...files].map((file) => shrunk(file).catch(() => null)));
    const good = made.filter((url) => url !== null);
    const room = MOST - attached.length;
    if (!refusal()) attach([...attached, ...good.slice(0, room)]);
    if (refusal()) say(refusal());
    else if (good.length < made.length) say("This browser cannot read all of that as images.");
    else if (good.length > room) say(`${MOST} images go with a message.`);
  }

  const files = byId("image-files");
  byId("attach").addEventListener("click", () => files.click());
  files.addEventListener("change", () => {
    take(files.files).then(() => (files.value = ""));
  });
  byId("prompt").addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    take(event.clipboardData.files);
  });
  const form = byId("compose");
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
