// Thumbs for an answer, and what to say with them: a comment, and what would have been right.

import { call } from "./api.js";
import { say } from "./announce.js";
import { el, iconButton } from "./dom.js";
import { inWords } from "./words.js";

/** @typedef {"up" | "down"} Rating */
/** @typedef {{comment: string, correction: string}} Words */

/** @type {Words} */
const NOTHING = { comment: "", correction: "" };
const NAMES = { up: "Good answer", down: "Bad answer" };

/**
 * Two buttons and the form that opens below them.
 * @param {string} answerId
 * @param {{rating: Rating} & Words | null} given before
 */
export function feedback(answerId, given) {
  /** @type {Record<Rating, Words>} what was said with each thumb; one that is left and pressed again finds its words */
  const said = { up: NOTHING, down: NOTHING };
  let stored = given?.rating ?? null;
  if (given) said[given.rating] = { comment: given.comment, correction: given.correction };
  const form = el("form", { class: "feedback", hidden: true });
  const up = iconButton("good", NAMES.up, () => rate("up", up));
  const down = iconButton("bad", NAMES.down, () => rate("down", down));

  /** @param {Rating | null} rating */
  function mark(rating) {
    up.setAttribute("aria-pressed", String(rating === "up"));
    down.setAttribute("aria-pressed", String(rating === "down"));
  }

  /**
   * The thumb counts at once; what is written after it replaces it.
   * @param {Rating} rating
   * @param {HTMLElement} button
   */
  async function rate(rating, button) {
    mark(rating);
    fill(form, rating, said[rating], (words) => send(rating, words), () => button.focus());
    try {
      // What is stored with this thumb already would lose its words.
      if (rating !== stored) await send(rating, said[rating]);
    } catch (error) {
      tell(form, inWords(error));
    }
  }

  /**
   * @param {Rating} rating
   * @param {Words} words
   */
  async function send(rating, words) {
    const before = stored;
    stored = rating;
    try {
      await call("POST", "v1/feedback", { body: { answer_id: answerId, rating, ...words } });
      said[rating] = words;
    } catch (error) {
      stored = before;
      throw error;
    }
  }

  mark(stored);
  return { buttons: [up, down], form };
}

/**
 * @param {HTMLFormElement} form
 * @param {Rating} rating
 * @param {Words} words which were said before
 * @param {(words: Words) => Promise<void>} send
 * @param {() => void} leave
 */
function fill(form, rating, words, send, leave) {
  const comment = field(rating === "up" ? "What was good about it?" : "What was wrong with it?", words.comment);
  const correction = field("What would have been right?", words.correction);
  const close = () => {
    form.hidden = true;
    leave();
  };
  form.replaceChildren(
    comment.label,
    rating === "down" ? correction.label : "",
    el("div", { class: "row" },
      el("button", { type: "submit", class: "button strong" }, "Send"),
      el("button", { type: "button", class: "button", onclick: close }, "Not now")),
    el("p", { class: "told", role: "status" }),
  );
  form.onkeydown = ({ key }) => key === "Escape" && close();
  form.onsubmit = async (event) => {
    event.preventDefault();
    try {
      await send({ comment: comment.area.value, correction: correction.area.value });
      close();
      say("Thank you for the feedback.");
    } catch (error) {
      tell(form, inWords(error));
    }
  };
  form.hidden = false;
  comment.area.focus({ preventScroll: true });
  form.scrollIntoView({ block: "nearest" }); // all of it: the composer would cover what is below the field
}

/**
 * @param {string} question
 * @param {string} words
 */
function field(question, words) {
  const area = el("textarea", { rows: 2, maxlength: 4000 }, words);
  return { area, label: el("label", {}, question, area) };
}

/**
 * @param {HTMLFormElement} form
 * @param {string} text
 */
function tell(form, text) {
  /** @type {HTMLElement} */ (form.querySelector(".told")).textContent = text;
}
