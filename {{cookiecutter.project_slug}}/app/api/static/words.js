// Errors, times and sizes in words: what happened, and what to do about it.

import { ApiError, Unreachable } from "./api.js";
import { byId } from "./dom.js";

const MINUTE = 60;
// Only another question can have an answer.
const OTHER_WORDS = new Set(["invalid_input", "context_too_long", "content_filtered"]);

/**
 * @param {unknown} error
 * @returns {string}
 */
export function inWords(error) {
  if (error instanceof Unreachable) return "The server cannot be reached.";
  if (!(error instanceof ApiError)) return "The connection broke before the answer was whole. Ask again.";
  const { status, code, message, retryAfter, requestId } = error;
  if (status === 401) return "The server asks for an API key. Ask again to give one.";
  if (status === 403) return `${sentence(message)} Ask whoever runs this for another key.`;
  if (code === "no_documents") return "There is nothing to answer from yet: add a document first.";
  if (status === 429 || status === 503) return `${sentence(message)} ${comeBack(retryAfter)}`;
  if (status < 500 || needsOtherWords(error)) return sentence(message);
  const report = requestId ? ` If it happens again, report the request ${requestId}.` : "";
  return `${sentence(message)} Ask again.${report}`;
}

/** @param {unknown} error after a question */
export function needsOtherWords(error) {
  return error instanceof ApiError && OTHER_WORDS.has(error.code);
}

/**
 * Why there is no answer; the figures in it are for whoever sets the threshold.
 * @param {string} reason as the API gives it
 */
export function whyNone(reason) {
  if (reason.includes("ABSTAIN_BELOW")) return "No sentence of the documents fits the question well enough.";
  if (reason.startsWith("No citation holds")) return "What was written cannot be found in the documents.";
  return reason;
}

/**
 * Say on the page what has no place of its own.
 * @param {unknown} error
 */
export function showProblem(error) {
  tellProblem(inWords(error));
}

/** @param {string} text */
export function tellProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim();
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

/** @param {number} seconds */
function comeBack(seconds) {
  if (!seconds) return "Try again in a moment.";
  if (seconds < 2 * MINUTE) return `Try again in ${seconds} second${seconds === 1 ? "" : "s"}.`;
  const time = new Date(Date.now() + seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return `Try again in ${Math.ceil(seconds / MINUTE)} minutes, at ${time}.`;
}

/** @param {number} number */
export function passages(number) {
  return `${number} passage${number === 1 ? "" : "s"}`;
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/**
 * Where a passage stands, as a path of headings.
 * @param {{title: string, heading: string}} place
 */
export function headings({ title, heading }) {
  return (heading || title).replaceAll(" > ", " › ");
}
