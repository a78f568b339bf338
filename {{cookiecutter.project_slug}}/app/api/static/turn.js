// One question with its answer, as it is shown: waiting, growing, whole, stopped or failed.

import { Sentences, say } from "./announce.js";
import { Citations } from "./citations.js";
import { el, icon, iconButton } from "./dom.js";
import { feedback } from "./feedback.js";
import { LiveMarkdown } from "./markdown.js";
import { whyNone } from "./words.js";

const COPIED_MS = 2_000;
let turns = 0;

/** @typedef {any} Answer as the API gives it */

export class Turn {
  #text = "";
  #drawing = 0;
  #citations = new Citations();
  #sentences = new Sentences();

  /** @param {string} question */
  constructor(question) {
    const id = `question-${++turns}`;
    this.question = question;
    this.body = el("div", { class: "answer" });
    this.foot = el("div", { class: "foot" });
    this.element = el("article", { class: "turn", "aria-labelledby": id },
      el("h2", { id, dir: "auto" }, question), this.body, this.foot);
    this.markdown = new LiveMarkdown(this.body, (marker) => this.#citations.chip(marker));
  }

  /** @param {string} [what] is waited for, since nothing is there yet */
  wait(what = "Reading the documents") {
    this.#text = "";
    this.#sentences = new Sentences();
    this.markdown.show("");
    this.element.classList.remove("failed", "stopped", "abstained");
    this.body.setAttribute("aria-busy", "true");
    this.foot.replaceChildren(el("p", { class: "waiting" }, what));
  }

  /** @param {string} text which comes next */
  grow(text) {
    this.#text += text;
    this.foot.replaceChildren();
    // Text may come faster than a screen shows it.
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0;
      this.markdown.show(this.#text);
      this.#sentences.grow(this.#text);
      this.element.dispatchEvent(new Event("grown", { bubbles: true }));
    });
  }

  /** @param {import("./citations.js").Citation} citation */
  cite(citation) {
    this.#citations.add(citation);
  }

  /**
   * The whole answer, which has the last word.
   * @param {Answer} answer
   */
  finish(answer) {
    this.#rest();
    this.#citations.settle(answer.id, answer.citations);
    this.markdown.show(answer.text);
    this.#citations.label(this.body);
    this.element.classList.toggle("abstained", answer.abstained);
    const searched = answer.standalone && answer.standalone !== answer.question;
    const notices = [
      answer.abstained ? whyNone(answer.reason) : "",
      searched ? `Searched for: ${answer.standalone}` : "",
      answer.notice,
    ].filter(Boolean);
    this.foot.replaceChildren(this.#citations.list() ?? "", ...notices.map(notice), ...this.#actions(answer));
  }

  /**
   * Say aloud what `grow` has not; an answer that is read again is not said.
   * @param {Answer} answer
   */
  announce(answer) {
    this.#sentences.end(answer.text);
    say(answer.abstained ? whyNone(answer.reason) : `The answer is whole. It has ${answer.citations.length} citations.`);
  }

  /**
   * Whoever asked stopped it, which is no error.
   * @param {() => void} again
   */
  stop(again) {
    this.element.classList.add("stopped");
    this.fail("Stopped.", again);
  }

  /**
   * It ended without an answer; what came so far stays, and is no answer.
   * @param {string} why
   * @param {() => void} next
   * @param {string} [what] the next thing to do is
   */
  fail(why, next, what = "Ask again") {
    this.#rest();
    this.markdown.show(this.#text);
    this.element.classList.add("failed");
    const button = el("button", { type: "button", class: "button", onclick: next }, icon("again"), what);
    this.foot.replaceChildren(notice(why), button);
    say(why);
  }

  #rest() {
    cancelAnimationFrame(this.#drawing);
    this.#drawing = 0;
    this.body.removeAttribute("aria-busy");
  }

  /** @param {Answer} answer */
  #actions(answer) {
    const { buttons, form } = feedback(answer.id, answer.feedback ?? null);
    const copy = iconButton("copy", "Copy the answer", async () => {
      await navigator.clipboard.writeText(answer.text);
      copy.classList.add("done");
      say("Copied.");
      setTimeout(() => copy.classList.remove("done"), COPIED_MS);
    });
    const model = el("span", { class: "model" }, answer.model);
    return [el("div", { class: "actions" }, copy, ...buttons, model), form];
  }
}

/** @param {string} text */
function notice(text) {
  return el("p", { class: "notice" }, text);
}
