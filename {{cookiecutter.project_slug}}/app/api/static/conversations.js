// The list of conversations, and the address that says which one is open: #/c/ID, or #/ for a new one.

import { ApiError, Unreachable, call } from "./api.js";
import { openConversation, showConversation } from "./chat.js";
import { backOnline } from "./connection.js";
import { byId, deleteButton, el } from "./dom.js";
import { showProblem, tellProblem } from "./words.js";

const PAGE = 30;
const UNTITLED = "New conversation";
const GONE = "This conversation was deleted, or belongs to somebody else.";

/** @type {{id: string, title: string}[]} */
let listed = [];
/** @type {() => void} */
let welcome = () => {};

/** @param {() => void} onEmpty called when a conversation without a question is open */
export async function startConversations(onEmpty) {
  welcome = onEmpty;
  addEventListener("hashchange", openFromAddress);
  byId("more-conversations").addEventListener("click", () => load(listed[listed.length - 1].id));
  await openFromAddress();
  byId("question").disabled = false; // now it is clear which conversation it would belong to
  await refresh();
}

/** Read the list again: a title is new, or the order. */
export async function refresh() {
  await load();
}

/** @param {string} [after] */
async function load(after) {
  const { data, has_more } = await call("GET", `v1/conversations?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  listed = after ? [...listed, ...data] : data;
  byId("more-conversations").hidden = !has_more;
  draw();
}

async function openFromAddress() {
  const id = addressed();
  if (id && id === openConversation()) return;
  byId("problem").hidden = true;
  let canAsk = true;
  try {
    const opened = id ? await call("GET", `v1/conversations/${id}`) : null;
    if (id !== addressed()) return; // somebody was faster
    showConversation(opened);
  } catch (error) {
    if (error instanceof Unreachable) {
      await backOnline();
      return openFromAddress();
    }
    showConversation(null);
    canAsk = isGone(error);
    if (canAsk) tellProblem(GONE);
    else showProblem(error);
  }
  byId("welcome").hidden = byId("turns").childElementCount > 0 || !canAsk;
  if (!byId("welcome").hidden) welcome();
  draw();
}

/** @param {unknown} error that came of an address: 422 is for one that was never given out */
function isGone(error) {
  return error instanceof ApiError && [404, 422].includes(error.status);
}

function addressed() {
  return /^#\/c\/([\w-]+)$/.exec(location.hash)?.[1];
}

function draw() {
  const open = openConversation();
  // One without an answer has no title yet, and is of no use to anybody else.
  const shown = listed.filter(({ id, title }) => title || id === open);
  const list = byId("conversations");
  const focused = list.contains(document.activeElement) && document.activeElement?.closest("li")?.firstElementChild;
  list.replaceChildren(...shown.map(({ id, title }) => {
    const name = title || UNTITLED;
    const link = el("a", { href: `#/c/${id}`, "aria-current": id === open && "page", title: name }, name);
    return el("li", {}, link, deleteButton(`Delete ${name}`, () => remove(id)));
  }));
  if (focused) list.querySelector(`[href="${focused.getAttribute("href")}"]`)?.focus();
  byId("no-conversations").hidden = shown.length > 0;
  const title = listed.find(({ id }) => id === open)?.title || UNTITLED;
  byId("title").textContent = title;
  document.title = open ? `${title} · ${byId("app-name").textContent}` : byId("app-name").textContent;
}

/** @param {string} id */
async function remove(id) {
  await call("DELETE", `v1/conversations/${id}`);
  listed = listed.filter((one) => one.id !== id);
  if (id === openConversation()) location.hash = "#/";
  draw();
  byId("new-conversation").focus();
}
