// Notices that the server is gone, says so at the top of the page, and waits until it is back.

import { byId } from "./dom.js";

const EVERY_MS = 1_500;

/** @type {Promise<void> | null} */
let waiting = null;

/** Show the banner, and return when the server answers again. */
export function backOnline() {
  waiting ??= untilAlive().finally(() => (waiting = null));
  return waiting;
}

async function untilAlive() {
  const banner = byId("offline");
  banner.hidden = false;
  while (!(await alive())) await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  banner.hidden = true;
}

async function alive() {
  try {
    return (await fetch("livez", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
