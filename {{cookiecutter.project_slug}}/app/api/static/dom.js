// Makes and finds elements. Whatever comes in as text stays text: nothing here, or anywhere, parses HTML.

/** @typedef {Node | string | null | undefined} Child */

/**
 * The element of the page with this id.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Make an element: `onclick` and its like are listeners, true is an empty attribute, false and null are none.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...Child} children
 * @returns {any}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/**
 * One of the drawings at the end of index.html.
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button with a drawing, and its name for those who do not see it.
 * @param {string} name of the drawing
 * @param {string} label
 * @param {(event: Event) => void} onclick
 */
export function iconButton(name, label, onclick) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
}

/**
 * A button that deletes when it is pressed twice; the first press says so.
 * @param {string} label
 * @param {() => void} remove
 */
export function deleteButton(label, remove) {
  const button = iconButton("trash", label, () => {
    if (button.classList.contains("sure")) return remove();
    button.classList.add("sure");
    button.replaceChildren("Delete?");
    button.setAttribute("aria-label", `${label}: press again to be sure`);
  });
  button.addEventListener("blur", () => {
    button.classList.remove("sure");
    button.replaceChildren(icon("trash"));
    button.setAttribute("aria-label", label);
  });
  return button;
}
