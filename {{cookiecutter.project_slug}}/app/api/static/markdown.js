// A part of Markdown as DOM nodes. The text is a model's, so it is not trusted: whatever is not known here stays text,
// there are no images, and a link shows the host that it leads to.

/** @typedef {(number: number) => Node | null} Marker what stands for [n] in a text; null leaves it as it is */

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}#{1,6}\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const ROW = /^\s*\|.*\|\s*$/;
const RULE = /^[\s|:-]+$/;
// Each part is bounded, so that no text takes longer than its length times a constant.
const INLINE = new RegExp(
  [
    "(?<code>`[^`]{1,600}`)",
    String.raw`!?\[(?<label>[^[\]]{1,300})\]\((?<address>[^\s()]{1,2000})\)`,
    String.raw`(?<bare>https?://[^\s<>"'()[\]]{1,2000}[^\s<>"'()[\].,;:!?])`,
    String.raw`\*\*(?<strong>\S|\S.{0,600}?\S)\*\*`,
    String.raw`(?<![\w*])\*(?<star>[^\s*]|[^\s*][^*]{0,600}[^\s*])\*(?![\w*])`,
    String.raw`(?<![\w_])_(?<low>[^\s_]|[^\s_][^_]{0,600}[^\s_])_(?![\w_])`,
    String.raw`\s?\[(?<marker>\d{1,3})\]`,
  ].join("|"),
  "gs",
);
// These make text run backwards, which can hide what a link or a file is called.
const OVERRIDES = /[\u061c\u202a-\u202e\u2066-\u2069]/g;
const DEEPEST = 5;
const LONGEST = 10_000; // characters of a block; a longer one is shown as it is

/** A text that grows: only what is new, or was not finished, is made anew. */
export class LiveMarkdown {
  /** @type {string[]} */
  #shown = [];

  /**
   * @param {HTMLElement} root
   * @param {Marker} marker
   */
  constructor(root, marker) {
    this.root = root;
    this.marker = marker;
  }

  /** @param {string} text all of it so far */
  show(text) {
    const sources = blocks(text.replace(OVERRIDES, ""));
    let same = 0;
    while (same < sources.length && sources[same] === this.#shown[same]) same++;
    while (this.root.children.length > same) this.root.lastElementChild?.remove();
    this.root.append(...sources.slice(same).map((source) => block(source, this.marker)));
    this.#shown = sources;
  }
}

/** @param {string} line */
function kind(line) {
  if (HEADING.test(line)) return "heading";
  if (ITEM.test(line)) return "list";
  return ROW.test(line) ? "table" : "text";
}

/**
 * Cut a text into the sources of its blocks.
 * @param {string} text
 * @returns {string[]}
 */
export function blocks(text) {
  /** @type {string[][]} */
  const found = [];
  let fence = "";
  let open = "";
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line)?.[1] ?? "";
    if (fence) {
      found[found.length - 1].push(line);
      if (mark.startsWith(fence) && line.trim() === mark) fence = open = "";
    } else if (mark) {
      fence = mark;
      found.push([line]);
    } else if (!line.trim()) {
      open = "";
    } else {
      const now = kind(line);
      const goesOn = open && open !== "heading" && (now === open || (now === "text" && open === "list"));
      if (goesOn) found[found.length - 1].push(line);
      else found.push([line]);
      open = goesOn ? open : now;
    }
  }
  return found.map((lines) => lines.join("\n"));
}

/**
 * @param {string} source
 * @param {Marker} marker
 * @returns {HTMLElement}
 */
function block(source, marker) {
  const lines = source.split("\n");
  const heading = HEADING.exec(source);
  if (FENCE.test(source)) return code(lines);
  if (source.length > LONGEST) return node("p", [source]);
  if (heading) return node("p", [node("strong", inline(heading[1], marker))]);
  if (ITEM.test(lines[0])) return list(lines, marker);
  if (lines.length > 1 && lines.every((line) => ROW.test(line)) && RULE.test(lines[1])) return table(lines, marker);
  return node("p", inline(source, marker));
}

/** @param {string[]} lines of which the first opens the fence, and the last may close it */
function code(lines) {
  const closed = lines.length > 1 && FENCE.test(lines[lines.length - 1]);
  const pre = node("pre", [node("code", [lines.slice(1, closed ? -1 : undefined).join("\n")])]);
  pre.tabIndex = 0; // it scrolls, so the keyboard has to reach it
  return pre;
}

/**
 * @param {string[]} lines
 * @param {Marker} marker
 */
function list(lines, marker) {
  /** @type {{indent: number, list: HTMLElement}[]} */
  const stack = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (!item) {
      stack[stack.length - 1].list.lastElementChild?.append(" ", ...inline(line.trim(), marker));
      continue;
    }
    const [, blanks, number, text] = item;
    while (stack.length > 1 && blanks.length < stack[stack.length - 1].indent) stack.pop();
    const top = stack[stack.length - 1];
    if (!top || (blanks.length > top.indent + 1 && stack.length < DEEPEST)) {
      const nested = node(number ? "ol" : "ul", []);
      if (number) nested.setAttribute("start", number);
      top?.list.lastElementChild?.append(nested);
      stack.push({ indent: blanks.length, list: nested });
    }
    stack[stack.length - 1].list.append(node("li", inline(text, marker)));
  }
  return stack[0].list;
}

/**
 * @param {string[]} lines
 * @param {Marker} marker
 */
function table(lines, marker) {
  const [head, , ...rows] = lines.map((line) => line.trim().slice(1, -1).split("|"));
  /** @type {(cells: string[], tag: string) => HTMLElement} */
  const row = (cells, tag) => node("tr", cells.map((cell) => node(tag, inline(cell.trim(), marker))));
  const body = rows.map((cells) => row(cells, "td"));
  const wide = node("div", [node("table", [node("thead", [row(head, "th")]), node("tbody", body)])]);
  wide.className = "table";
  wide.tabIndex = 0;
  return wide;
}

/**
 * @param {string} text
 * @param {Marker} marker
 * @param {number} [depth]
 * @returns {(Node | string)[]}
 */
function inline(text, marker, depth = 0) {
  const nodes = [];
  let at = 0;
  for (const found of depth < DEEPEST ? text.matchAll(INLINE) : []) {
    const made = span(found, marker, depth);
    if (!made) continue;
    nodes.push(text.slice(at, found.index), ...made);
    at = found.index + found[0].length;
  }
  return [...nodes, text.slice(at)];
}

/**
 * @param {RegExpMatchArray} found
 * @param {Marker} marker
 * @param {number} depth
 * @returns {(Node | string)[] | null}
 */
function span({ groups = {} }, marker, depth) {
  const { code: quoted, label, address, bare, strong, star, low } = groups;
  if (quoted) return [node("code", [quoted.slice(1, -1)])];
  if (bare) return link(bare, bare);
  if (address) return link(label, address);
  if (strong) return [node("strong", inline(strong, marker, depth + 1))];
  if (star ?? low) return [node("em", inline(star ?? low, marker, depth + 1))];
  const made = marker(Number(groups.marker));
  return made && [made];
}

/**
 * @param {string} label
 * @param {string} address
 */
function link(label, address) {
  const url = URL.parse(address);
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const anchor = /** @type {HTMLAnchorElement} */ (node("a", [label]));
  Object.assign(anchor, { href: url.href, target: "_blank", rel: "noopener noreferrer" });
  const place = url.host || url.pathname;
  const host = node("span", [` (${place})`]);
  host.className = "host";
  return label === place ? [anchor] : [anchor, host];
}

/**
 * @param {string} tag
 * @param {(Node | string)[]} children
 */
function node(tag, children) {
  const element = document.createElement(tag);
  if (["p", "li", "td", "th"].includes(tag)) element.dir = "auto";
  element.append(...children);
  return element;
}
