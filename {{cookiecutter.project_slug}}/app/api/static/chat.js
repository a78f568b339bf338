// Asks, streams the answer into a turn, stops, and asks again. Knows which conversation is open.

import { ApiError, Unreachable, call, send } from "./api.js";
import { backOnline } from "./connection.js";
import { byId } from "./dom.js";
import { events } from "./stream.js";
import { Turn } from "./turn.js";
import { inWords, needsOtherWords } from "./words.js";

const DRAFT = "draft";
const NEAR_THE_END = 80; // pixels

/** @type {string | null} */
let conversation = null;
/** @type {AbortController | null} */
let running = null;
/** @type {(model: string) => void} */
let answered = () => {};

/** @type {HTMLTextAreaElement} */
const field = byId("question");
const turns = byId("turns");

/**
 * Wire up the form.
 * @param {(model: string) => void} onAnswer called after each answer that is whole
 */
export function startChat(onAnswer) {
  answered = onAnswer;
  field.value = sessionStorage.getItem(DRAFT) ?? "";
  field.addEventListener("input", () => sessionStorage.setItem(DRAFT, field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  byId("composer").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    submit();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  for (const example of document.querySelectorAll(".example")) {
    example.addEventListener("click", () => ask(example.textContent?.trim() ?? ""));
  }
  startFollowing();
}

/**
 * Show a conversation, or none; what is under way for another one is stopped.
 * @param {{id: string, answers: any[]} | null} opened
 */
export function showConversation(opened) {
  running?.abort();
  running = null;
  conversation = opened?.id ?? null;
  turns.replaceChildren(...(opened?.answers ?? []).map((answer) => {
    const turn = new Turn(answer.question);
    turn.finish(answer);
    return turn.element;
  }));
  follow(true);
}

export function openConversation() {
  return conversation;
}

function submit() {
  ask(field.value.trim());
}

/** @param {string} question */
function ask(question) {
  if (!question || running) return;
  byId("problem").hidden = true;
  const turn = new Turn(question);
  byId("welcome").hidden = true;
  turns.append(turn.element);
  field.value = "";
  answer(turn);
}

/**
 * Get the answer of a turn, however long the server is away.
 * @param {Turn} turn
 */
async function answer(turn) {
  if (running) return;
  const abort = (running = new AbortController());
  sessionStorage.setItem(DRAFT, turn.question); // until it is answered, so that a reload does not lose it
  busy(true);
  try {
    await untilAnswered(turn, abort.signal);
    if (!field.value) sessionStorage.removeItem(DRAFT);
  } catch (error) {
    end(turn, abort.signal.aborted, error);
  } finally {
    if (running === abort) running = null;
    busy(running !== null);
    follow();
  }
}

/**
 * Say why a turn has no answer, and offer what can help.
 * @param {Turn} turn
 * @param {boolean} stopped
 * @param {unknown} error
 */
function end(turn, stopped, error) {
  const again = () => answer(turn);
  if (stopped) turn.stop(again);
  else if (needsOtherWords(error)) turn.fail(inWords(error), () => putBack(turn.question), "Change the question");
  else turn.fail(inWords(error), again);
}

/** @param {string} question to be written differently, beside what was written since */
function putBack(question) {
  if (!field.value.includes(question)) field.value = [question, field.value].filter(Boolean).join("\n\n");
  sessionStorage.setItem(DRAFT, field.value);
  field.focus();
  follow(true); // the field has grown over the reason
}

/**
 * @param {Turn} turn
 * @param {AbortSignal} signal
 */
async function untilAnswered(turn, signal) {
  for (;;) {
    turn.wait();
    follow(true);
    try {
      return await stream(turn, signal);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      turn.wait("Waiting for the server");
      await Promise.race([backOnline(), new Promise((_, stop) => signal.addEventListener("abort", stop))]);
    }
  }
}

/**
 * @param {Turn} turn
 * @param {AbortSignal} signal
 * @throws {ApiError} also for an error that comes in mid-stream
 */
async function stream(turn, signal) {
  conversation ??= await begun(signal);
  const body = { question: turn.question, stream: true, conversation_id: conversation };
  const response = await send("POST", "v1/ask", { body, signal });
  for await (const { name, data } of events(response)) {
    if (name === "delta") turn.grow(data.text);
    if (name === "citation") turn.cite(data);
    if (name === "error") throw new ApiError(500, data.error, response.headers);
    if (name === "answer") {
      turn.finish(data);
      turn.announce(data);
      return answered(data.model);
    }
  }
  throw new Error("the stream ended before the answer");
}

/** @param {AbortSignal} signal */
async function begun(signal) {
  const { id } = await call("POST", "v1/conversations", { signal });
  signal.throwIfAborted();
  history.pushState(null, "", `#/c/${id}`);
  return id;
}

/** @param {boolean} is */
function busy(is) {
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = is;
  byId("stop").hidden = !is;
  if (hadFocus) (is ? byId("stop") : field).focus({ preventScroll: true });
}

function atEnd() {
  const { scrollHeight, clientHeight } = document.documentElement;
  return scrollHeight - clientHeight - scrollY < NEAR_THE_END;
}

let following = true;

/** Whoever scrolls up to read is left there, until the end is reached again. */
function startFollowing() {
  addEventListener("scroll", () => {
    following = atEnd();
    byId("to-end").hidden = following;
  });
  addEventListener("wheel", ({ deltaY }) => (following &&= deltaY >= 0), { passive: true });
  turns.addEventListener("grown", () => follow());
  byId("to-end").addEventListener("click", () => follow(true));
}

/** @param {boolean} [always] */
function follow(always = false) {
  if (always || following) scrollTo({ top: document.documentElement.scrollHeight });
}
