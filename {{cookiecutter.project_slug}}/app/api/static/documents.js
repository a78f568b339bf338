// The documents: upload by button or by dropping, how far each is, also after a reload, the list, and deleting.

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

// Another try would end as this one did.
const HOPELESS = new Set(["invalid_input", "unsupported_document", "document_too_large", "forbidden"]);

let mostBytes = Infinity;
let lastId = "";
let shown = ""; // what is listed, as text
/** @type {() => void} */
let changed = () => {};
/** @type {Promise<void> | null} */
let earlier = null;

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
  earlierUploads();
}

/** Show once what an earlier visit left; where that fails, the list below says what is wrong, and it is tried again. */
function earlierUploads() {
  return (earlier ??= loadUploads().catch(() => {
    earlier = null;
  }));
}

/** Those that are not done. A file that was sent from this page is listed, and has taken the place of its namesake. */
async function loadUploads() {
  const { data } = await call("GET", `v1/uploads?limit=${PAGE}`);
  const listed = new Set([...byId("uploads").children].map(({ dataset }) => dataset.name));
  for (const stored of data) {
    const name = stored.source.replace("upload/", "");
    if (stored.status === "done" || listed.has(name)) continue;
    const upload = new Upload(name, () => call("POST", `v1/uploads/${stored.id}/retry`));
    byId("uploads").append(upload.element);
    upload.follow(Promise.resolve(stored));
  }
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
  for (const file of files) {
    /** @type {Upload} */
    const upload = new Upload(file.name, () => upload.forget().then(() => upload.send(file)));
    byId("uploads").prepend(upload.element);
    if (file.size > mostBytes) upload.fail(`Too large: a file may have ${size(mostBytes)}.`, false);
    else upload.follow(earlierUploads().then(() => upload.send(file))); // or it would be listed among them
  }
}

/** One file on its way. */
class Upload {
  /**
   * @param {string} name of the file
   * @param {() => Promise<any>} again begins it again, and gives the upload as it is queued
   */
  constructor(name, again) {
    this.name = name;
    this.id = "";
    this.bar = el("progress", { max: 1, "aria-label": `Upload of ${name}` });
    this.state = el("span", { class: "file", role: "status" });
    const button = (/** @type {string} */ text, /** @type {() => void} */ onclick) =>
      el("button", { type: "button", class: "quiet", hidden: true, onclick }, text);
    this.again = button("Try again", () => this.follow(again()));
    this.no = button("Dismiss", () => this.dismiss());
    const text = el("span", { class: "place" }, name, this.state);
    this.element = el("li", { "data-name": name }, text, this.again, this.no, this.bar);
  }

  /**
   * Show how far it is, until its end.
   * @param {Promise<any>} queued the upload, once the server has it
   */
  async follow(queued) {
    this.element.classList.remove("error");
    this.again.hidden = this.no.hidden = true;
    this.bar.hidden = false;
    this.state.textContent = "Waiting";
    try {
      const ended = await this.ended(await queued);
      if (ended.status === "done") this.succeed(ended);
      else this.fail(ended.error?.message ?? "It could not be read.", !HOPELESS.has(ended.error?.code));
    } catch (error) {
      this.fail(inWords(error), !(error instanceof ApiError && HOPELESS.has(error.code)));
    }
  }

  /**
   * Bytes first, of which the browser knows the number.
   * @param {File} file
   */
  send(file) {
    this.bar.value = 0;
    return upload(file, (share) => {
      this.bar.value = share;
      this.state.textContent = `${Math.round(share * 100)} % of ${size(file.size)}`;
    });
  }

  /**
   * Then the server reads them, and says no more than that it does.
   * @param {any} now
   */
  async ended(now) {
    this.id = now.id;
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
    say(`${this.name}: ${this.state.textContent}`);
    load();
    changed();
  }

  /**
   * @param {string} why
   * @param {boolean} [hope] whether another try could go better
   */
  fail(why, hope = true) {
    this.bar.hidden = true;
    this.again.hidden = !hope;
    this.no.hidden = false;
    this.element.classList.add("error");
    this.state.textContent = why.replaceAll(`upload/${this.name}`, this.name);
  }

  /** The server keeps what failed, for another try; it need not. */
  async forget() {
    if (this.id) await call("DELETE", `v1/uploads/${this.id}`);
    this.id = "";
  }

  async dismiss() {
    await this.forget();
    this.element.remove();
    byId("documents-title").focus();
  }
}
