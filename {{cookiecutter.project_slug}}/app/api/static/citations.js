// The numbers in an answer, the list of its sources, and the panel that shows a source with the quote highlighted.

import { call } from "./api.js";
import { openBeside } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { headings, inWords } from "./words.js";

/**
 * @typedef {object} Citation
 * @property {number} marker
 * @property {string} source
 * @property {string} title
 * @property {string} heading
 * @property {string} quote
 * @property {number | null} page
 */

/** @type {Citation | null} */
let shown = null;

/** The citations of one answer; its id is known when it is whole, and until then the quote is all there is. */
export class Citations {
  #answerId = "";
  /** @type {Map<number, Citation>} */
  #known = new Map();

  /** @param {Citation} citation */
  add(citation) {
    this.#known.set(citation.marker, citation);
  }

  /**
   * The answer is whole, and these are its citations.
   * @param {string} answerId
   * @param {Citation[]} citations
   */
  settle(answerId, citations) {
    this.#answerId = answerId;
    this.#known = new Map(citations.map((citation) => [citation.marker, citation]));
  }

  /**
   * The number in the text. A citation may arrive after its number, so it is looked up when it is pressed.
   * @param {number} marker
   */
  chip(marker) {
    if (this.#answerId && !this.#known.has(marker)) return null;
    const attributes = { type: "button", class: "chip", "aria-label": `Source ${marker}` };
    return el("sup", {}, el("button", { ...attributes, onclick: () => this.open(marker) }, String(marker)));
  }

  /** @param {HTMLElement} text with numbers that shall say what they lead to */
  label(text) {
    for (const chip of text.querySelectorAll(".chip")) {
      const citation = this.#known.get(Number(chip.textContent));
      if (citation) chip.setAttribute("aria-label", `Source ${citation.marker}: ${headings(citation)}`);
    }
  }

  /** The list below an answer, one line for each citation; null without one. */
  list() {
    const lines = [...this.#known.values()].map((citation) =>
      el("li", {}, el("button", { type: "button", class: "reference", onclick: () => this.open(citation.marker) },
        el("span", { class: "number" }, String(citation.marker)),
        el("span", { class: "place" }, headings(citation), el("span", { class: "file" }, file(citation))))));
    return lines.length ? el("ol", { class: "references", "aria-label": "Sources" }, ...lines) : null;
  }

  /** @param {number} marker */
  async open(marker) {
    const citation = this.#known.get(marker);
    if (!citation) return;
    shown = citation;
    show(citation, { before: "", after: "", changed: false });
    openBeside(byId("source"));
    if (!this.#answerId) return;
    try {
      const place = await call("GET", `v1/answers/${this.#answerId}/citations/${marker}`);
      if (shown === citation) show(citation, place);
    } catch (error) {
      if (shown === citation) byId("source-body").append(el("p", { class: "notice" }, inWords(error)));
    }
  }
}

/** @param {Citation} citation */
function file({ source, page }) {
  return page ? `${source}, page ${page}` : source;
}

/**
 * The text around a quote as it is stored, with its headings set as such.
 * @param {string} text
 */
function withHeadings(text) {
  return text.split(/^(#{1,6} .*)$/m).map((part, n) => (n % 2 ? el("strong", {}, part.replace(/^#+ /, "")) : part));
}

/**
 * @param {Citation} citation
 * @param {{before: string, after: string, changed: boolean}} around
 */
function show(citation, { before, after, changed }) {
  const quote = el("mark", {}, citation.quote);
  const body = byId("source-body");
  byId("source-title").replaceChildren(
    el("span", { class: "hidden" }, "Source "), el("span", { class: "number" }, String(citation.marker)), headings(citation),
  );
  byId("source-file").textContent = file(citation);
  body.replaceChildren(
    changed ? el("p", { class: "notice" }, "The document has changed since. This is what the answer was made from.") : "",
    el("div", { class: "passage", dir: "auto" }, ...withHeadings(before), quote, ...withHeadings(after)),
  );
  body.scrollTop = quote.offsetTop - body.offsetTop - body.clientHeight / 3;
}
