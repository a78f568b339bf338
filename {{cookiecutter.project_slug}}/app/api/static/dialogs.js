// Opens and closes what lies beside or over the page. The browser keeps the focus inside, and gives it back.

import { byId } from "./dom.js";

const WIDE = matchMedia("(min-width: 75rem)");

/**
 * Over the page.
 * @param {HTMLDialogElement} dialog
 */
export function openModal(dialog) {
  if (!dialog.open) dialog.showModal();
}

/**
 * Beside the page where there is room, else over it.
 * @param {HTMLDialogElement} dialog
 */
export function openBeside(dialog) {
  dialog.close(); // so that the focus goes back to what opened it this time
  if (WIDE.matches) dialog.show();
  else dialog.showModal();
}

/** Make close buttons, Escape and a click beside a dialog close it. */
export function startDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
  }
  const source = byId("source");
  document.addEventListener("keydown", ({ key }) => key === "Escape" && !openModals() && source.close());
  WIDE.addEventListener("change", () => {
    if (!source.open) return;
    source.close();
    openBeside(source);
  });
  startSidebar();
}

function openModals() {
  return document.querySelector("dialog:modal, .sidebar-open");
}

/** On a narrow page the sidebar lies over the rest, until it is left. */
function startSidebar() {
  const [button, close, sidebar] = ["open-sidebar", "close-sidebar", "sidebar"].map(byId);
  /** @param {boolean} open */
  const show = (open) => {
    document.body.classList.toggle("sidebar-open", open);
    button.setAttribute("aria-expanded", String(open));
  };
  const isOpen = () => document.body.classList.contains("sidebar-open");
  const back = () => {
    show(false);
    button.focus();
  };
  button.addEventListener("click", () => {
    show(true);
    close.focus();
  });
  close.addEventListener("click", back);
  sidebar.addEventListener("focusout", (/** @type {FocusEvent} */ { relatedTarget }) => {
    if (relatedTarget && !sidebar.contains(relatedTarget)) show(false);
  });
  document.addEventListener("click", ({ target }) => {
    const place = /** @type {Element} */ (target);
    if (!button.contains(place) && (!sidebar.contains(place) || place.closest("a"))) show(false);
  });
  document.addEventListener("keydown", ({ key }) => key === "Escape" && isOpen() && back());
}
