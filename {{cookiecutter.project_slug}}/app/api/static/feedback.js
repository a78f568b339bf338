// Thumbs for an answer, and what to say with them: a comment, and what would have been right.

import { call } from "./api.js";
import { say } from "./announce.js";
import { el, iconButton } from "./dom.js";
import { inWords } from "./words.js";

/** @typedef {"up" | "down"} Rating */

const NAMES = { up: "Good answer", down: "Bad answer" };

/**
 * Two buttons and the form that opens below them.
 * @param {string} answerId
 * @param {Rating | null} given before
 */
export function feedback(answerId, given) {
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
    fill(form, rating, (words) => send({ rating, ...words }), () => button.focus());
    await send({ rating }).catch((error) => tell(form, inWords(error)));
  }

  /** @param {object} words */
  async function send(words) {
    await call("POST", "v1/feedback", { body: { answer_id: answerId, ...words } });
  }

  mark(given);
  return { buttons: [up, down], form };
}

/**
 * @param {HTMLFormElement} form
 * @param {Rating} rating
 * @param {(words: {comment: string, correction: string}) => Promise<void>} send
 * @param {() => void} leave
 */
function fill(form, rating, send, leave) {
  const comment = field(rating === "up" ? "What was good about it?" : "What was wrong with it?");
  const correction = field("What would have been right?");
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
  comment.area.focus();
}

/** @param {string} question */
function field(question) {
  const area = el("textarea", { rows: 2, maxlength: 4000 });
  return { area, label: el("label", {}, question, area) };
}

/**
 * @param {HTMLFormElement} form
 * @param {string} text
 */
function tell(form, text) {
  /** @type {HTMLElement} */ (form.querySelector(".told")).textContent = text;
}
