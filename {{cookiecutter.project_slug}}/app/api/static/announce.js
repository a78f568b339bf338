// Tells a screen reader what is new: an answer by whole sentences, not by the pieces in which it arrives.

import { byId, el } from "./dom.js";

const SENTENCE = /^.*?(?:[.!?:](?:\s*\[\d{1,3}\])*(?=\s)|\n\s*\n)/s;
const MARKS = /\[\d{1,3}\]|[*_`#|]+/g;
const KEPT = 20;

/** @param {string} text */
export function say(text) {
  const plain = text.replace(MARKS, "").trim();
  if (!plain) return;
  const log = byId("announcer");
  log.append(el("p", {}, plain));
  while (log.children.length > KEPT) log.firstElementChild.remove();
}

/** Collects an answer as it grows, and says each sentence once. */
export class Sentences {
  #said = 0;

  /** @param {string} text all of it so far */
  grow(text) {
    for (let found; (found = SENTENCE.exec(text.slice(this.#said))); ) {
      this.#said += found[0].length;
      say(found[0]);
    }
  }

  /** @param {string} text which is whole now */
  end(text) {
    say(text.slice(this.#said));
    this.#said = text.length;
  }
}
