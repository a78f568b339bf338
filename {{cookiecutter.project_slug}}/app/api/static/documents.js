// The documents: upload by button or by dropping, how far each is, the list, and deleting.

import { ApiError, Unreachable, call, upload } from "./api.js";
import { say } from "./announce.js";
import { backOnline } from "./connection.js";
import { openModal } from "./dialogs.js";
import { byId, deleteButton, el } from "./dom.js";
import { inWords, passages, size } from "./words.js";

const PAGE = 50;
const POLL_MS = 500;
/** @type {Record<string, string>} */
const OUTCOMES = { added: "Added", changed: "Replaced", unchanged: "Was stored already" };

let mostBytes = Infinity;
let lastId = "";
let shown = ""; // what is listed, as text
/** @type {() => void} */
let changed = () => {};

/**
 * @param {number} limit of one file, in bytes
 * @param {() => void} onChange called when a document has come or gone
 */
export function startDocuments(limit, onChange) {
  mostBytes = limit;
  changed = onChange;
  for (const button of document.querySelectorAll(".open-documents")) button.addEventListener("click", open);
  const files = byId("files");
  files.addEventListener("change", () => {
    uploadAll(files.files);
    files.value = "";
  });
  byId("more-documents").addEventListener("click", () => load(lastId));
  startDropping();
}

/** @returns {Promise<boolean>} */
export async function hasDocuments() {
  return (await call("GET", "v1/documents?limit=1")).data.length > 0;
}

/** Files may be dropped anywhere on the page. */
function startDropping() {
  const holdsFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    open();
    uploadAll(event.dataTransfer?.files ?? []);
  });
}

function open() {
  openModal(byId("documents"));
  load();
}

/** @param {string} [after] */
async function load(after = "") {
  const stored = byId("stored");
  try {
    const { data, last_id, has_more } = await call("GET", `v1/documents?limit=${PAGE}${after && `&after=${after}`}`);
    const read = JSON.stringify([after, data]);
    if (read === shown) return; // drawing anew would take away what is being pressed
    shown = read;
    if (!after) stored.replaceChildren();
    stored.append(...data.map(row));
    lastId = last_id;
    byId("more-documents").hidden = !has_more;
    byId("none-stored").hidden = stored.childElementCount > 0;
  } catch (error) {
    shown = "";
    stored.replaceChildren(el("li", { class: "error" }, inWords(error)));
  }
}

/** @param {{id: string, title: string, source: string, chunks: number}} stored */
function row({ id, title, source, chunks }) {
  const remove = async () => {
    await call("DELETE", `v1/documents/${id}`);
    byId("documents-title").focus();
    await load();
    changed();
  };
  const text = el("span", { class: "place" }, title, el("span", { class: "file" }, `${source} · ${passages(chunks)}`));
  return el("li", {}, text, deleteButton(`Delete ${title}`, remove));
}

/** @param {Iterable<File>} files */
function uploadAll(files) {
  for (const file of files) byId("uploads").prepend(new Upload(file).element);
}

/** One file on its way. */
class Upload {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.bar = el("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    this.state = el("span", { class: "file", role: "status" });
    this.again = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.run() }, "Try again");
    this.element = el("li", {}, el("span", { class: "place" }, file.name, this.state), this.again, this.bar);
    if (file.size > mostBytes) this.fail(`Too large: a file may have ${size(mostBytes)}.`);
    else this.run();
  }

  async run() {
    this.element.classList.remove("error");
    this.again.hidden = true;
    this.bar.hidden = false;
    this.state.textContent = "Waiting";
    try {
      const ended = await this.followed(await this.sent());
      if (ended.status === "done") return this.succeed(ended);
      this.fail(ended.error?.message ?? "It could not be read.");
    } catch (error) {
      this.fail(inWords(error));
    }
    this.again.hidden = false;
  }

  /** Bytes first, of which the browser knows the number. */
  sent() {
    return upload(this.file, (share) => {
      this.bar.value = share;
      this.state.textContent = `${Math.round(share * 100)} % of ${size(this.file.size)}`;
    });
  }

  /**
   * Then the server reads them, and says no more than that it does.
   * @param {any} now
   */
  async followed(now) {
    this.bar.removeAttribute("value");
    while (now.status === "queued" || now.status === "running") {
      this.state.textContent = now.status === "queued" ? "Waiting to be read" : "Being read";
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      now = await call("GET", `v1/uploads/${now.id}`).catch(async (error) => {
        if (!(error instanceof Unreachable)) throw error;
        await backOnline();
        return now;
      });
    }
    return now;
  }

  /** @param {any} upload */
  succeed(upload) {
    this.bar.hidden = true;
    this.state.textContent = OUTCOMES[upload.outcome] + (upload.chunks ? `, ${passages(upload.chunks)}` : "");
    say(`${this.file.name}: ${this.state.textContent}`);
    load();
    changed();
  }

  /** @param {string} why */
  fail(why) {
    this.bar.hidden = true;
    this.element.classList.add("error");
    this.state.textContent = why;
  }
}
