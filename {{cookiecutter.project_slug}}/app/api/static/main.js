// Where the page begins: it learns what it is about, and connects the parts. Each part knows its own elements.

import { ApiError, Unreachable, call, onKeyNeeded, useKey } from "./api.js";
import { startChat } from "./chat.js";
import { backOnline } from "./connection.js";
import { refresh, startConversations } from "./conversations.js";
import { openModal, startDialogs } from "./dialogs.js";
import { hasDocuments, startDocuments } from "./documents.js";
import { byId } from "./dom.js";
import { showProblem } from "./words.js";

/** @typedef {{name: string, offline: boolean, needs_key: boolean, max_document_bytes: number}} About */

async function start() {
  addEventListener("unhandledrejection", (event) => {
    if (event.reason instanceof ApiError || event.reason instanceof Unreachable) event.preventDefault();
    showProblem(event.reason);
  });
  startDialogs();
  onKeyNeeded(askForKey);
  byId("skip").addEventListener("click", () => byId("question").focus());
  const about = await reached(() => call("GET", "app.json"));
  byId("app-name").textContent = about.name;
  tellAbout(about);
  startChat((model) => {
    tellAbout(about, model);
    refresh().catch(() => {}); // an old list does no harm
  });
  startDocuments(about.max_document_bytes, welcome);
  await reached(() => startConversations(welcome));
}

/**
 * Whatever it takes, wait for the server.
 * @template T
 * @param {() => Promise<T>} get
 * @returns {Promise<T>}
 */
async function reached(get) {
  for (;;) {
    try {
      return await get();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      await backOnline();
    }
  }
}

/**
 * Say what one talks to; that is always in view, beside the question.
 * @param {About} about
 * @param {string} [model] which gave the last answer
 */
function tellAbout({ offline }, model) {
  byId("about-ai").textContent = offline
    ? "You are talking to a machine. It is offline and writes nothing: it quotes sentences of the documents."
    : `You are talking to an AI${model ? ` (${model})` : ""}. It can be wrong: check its sources.`;
}

/** Examples where there is something to ask about, else how to add it. */
async function welcome() {
  const some = await hasDocuments().catch(() => true);
  byId("examples").hidden = !some;
  byId("no-documents").hidden = some;
}

/**
 * @param {string} reason
 * @returns {Promise<boolean>} whether one was given
 */
function askForKey(reason) {
  const dialog = byId("key");
  const value = byId("key-value");
  byId("key-reason").textContent = reason;
  value.value = "";
  openModal(dialog);
  return new Promise((resolve) => {
    byId("key-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      useKey(value.value.trim());
      resolve(true);
      dialog.close();
    };
    dialog.addEventListener("close", () => resolve(false), { once: true });
  });
}

start();
