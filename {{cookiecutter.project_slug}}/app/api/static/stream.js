// Reads server-sent events from the body of a response. Knows nothing of what the events mean.

const LINE_END = /\r\n|\n|\r(?!$)/;

/** Takes text in pieces, cut anywhere, and gives the events that are whole. */
export class EventReader {
  #rest = "";
  #name = "";
  /** @type {string[]} */
  #data = [];

  /**
   * @param {string} text
   * @returns {Generator<{name: string, data: any}>}
   */
  *feed(text) {
    this.#rest += text;
    // A carriage return at the end may be half of a line's end, so it has to wait.
    for (let end; (end = LINE_END.exec(this.#rest)); ) {
      const line = this.#rest.slice(0, end.index);
      this.#rest = this.#rest.slice(end.index + end[0].length);
      if (line) this.#field(line);
      else if (this.#data.length) yield this.#event();
      else this.#name = "";
    }
  }

  /** @param {string} line with a comment, which has no name, or a field */
  #field(line) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (name === "event") this.#name = value;
    if (name === "data") this.#data.push(value);
  }

  #event() {
    const event = { name: this.#name || "message", data: JSON.parse(this.#data.join("\n")) };
    this.#name = "";
    this.#data = [];
    return event;
  }
}

/**
 * The events of a response, as they arrive.
 * @param {Response} response
 */
export async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  const parser = new EventReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield* parser.feed(decoder.decode(value, { stream: true }));
  }
}
