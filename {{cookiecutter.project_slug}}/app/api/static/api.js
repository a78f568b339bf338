// Speaks HTTP with the server: the API key, errors as objects, uploads with progress. Knows nothing of what is shown.

const KEY = "api-key";

/** The server answered that it cannot or will not. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {{message?: string, code?: string}} error as the server gives it
   * @param {{get(name: string): string | null}} headers
   */
  constructor(status, error, headers) {
    super(error.message || `The server answered with status ${status}.`);
    this.status = status;
    this.code = error.code ?? "";
    this.retryAfter = Number(headers.get("Retry-After")) || 0;
    this.requestId = headers.get("X-Request-ID") ?? "";
  }
}

/** The server did not answer at all. */
export class Unreachable extends Error {}

const REFUSED = "That key was not accepted. It may be mistyped, revoked or expired.";
const NEEDED = "Only those with a key can use this. Ask whoever runs it.";

/** @type {(reason: string) => Promise<boolean>} */
let askForKey = async () => false;
/** @type {Promise<boolean> | null} */
let asking = null;
let declined = 0; // when, in milliseconds since the page was opened

/**
 * Say who asks the person for a key: it gets the reason, and gives whether there is a new one.
 * @param {(reason: string) => Promise<boolean>} ask
 */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** @param {string} key */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @returns {Record<string, string>} */
function authorization() {
  return key() ? { Authorization: `Bearer ${key()}` } : {};
}

/**
 * Whether to try again with another key. Requests under way together ask for one once.
 * @param {string} refused
 * @param {number} started when the request did
 * @param {ApiError} error
 */
async function otherKey(refused, started, error) {
  if (error.status !== 401 || started < declined) return false;
  if (key() !== refused) return true;
  asking ??= askForKey(refused ? REFUSED : NEEDED).finally(() => (asking = null));
  const given = await asking;
  if (!given) declined = performance.now();
  return given;
}

/**
 * Send a request until it is answered or refused.
 * @param {string} method
 * @param {string} path below the page's address
 * @param {{body?: object, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 * @throws {ApiError | Unreachable}
 */
export async function send(method, path, { body, signal } = {}) {
  for (;;) {
    const used = key();
    const started = performance.now();
    const headers = body ? { "Content-Type": "application/json", ...authorization() } : authorization();
    const response = await reach(path, { method, headers, signal, body: body && JSON.stringify(body) });
    if (response.ok) return response;
    const error = new ApiError(response.status, errorIn(await response.text().catch(() => "")), response.headers);
    if (!(await otherKey(used, started, error))) throw error;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw /** @type {Error} */ (error).name === "AbortError" ? error : new Unreachable();
  }
}

/** @param {string} text of a response that is an error, which need not come from our server */
function errorIn(text) {
  try {
    return JSON.parse(text).error ?? {};
  } catch {
    return {};
  }
}

/**
 * Send a request and read the JSON of its answer; null where there is none.
 * @param {string} method
 * @param {string} path
 * @param {{body?: object, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  return response.status === 204 ? null : response.json();
}

/**
 * Upload a file; `fetch` could not say how far it is.
 * @param {File} file
 * @param {(share: number) => void} progress from 0 to 1
 * @returns {Promise<any>} the upload, as it is queued
 */
export async function upload(file, progress) {
  for (;;) {
    const used = key();
    const started = performance.now();
    try {
      return await sendFile(file, progress);
    } catch (error) {
      if (!(error instanceof ApiError && (await otherKey(used, started, error)))) throw error;
    }
  }
}

/**
 * @param {File} file
 * @param {(share: number) => void} progress
 */
function sendFile(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file);
    request.upload.onprogress = ({ loaded, total }) => progress(loaded / total);
    request.onerror = () => reject(new Unreachable());
    request.onload = () => {
      if (request.status < 300) return resolve(JSON.parse(request.responseText));
      const headers = { get: (/** @type {string} */ name) => request.getResponseHeader(name) };
      reject(new ApiError(request.status, errorIn(request.responseText), headers));
    };
    request.open("POST", "v1/documents");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.send(form);
  });
}
