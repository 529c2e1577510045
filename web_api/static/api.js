// How the page asks the server: the same routes that programs use.

import { isArchive } from "./folders.js";

const TRIES = 5;
const LONGEST_WAIT_S = 10;

/** What went wrong, in words for people; with the answer's status, where there was one. */
export class Problem extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status;
  }
}

/**
 * Asks `model` what `picture` (a File) shows; with `topK`, that many classes are listed, or "all".
 * `onWait(seconds, why)` is called at every wait for a server that cannot answer now.
 */
export async function predict(model, picture, { signal, onWait, topK } = {}) {
  const query = topK === undefined ? "" : `?top_k=${topK}`;
  const response = await post(`/predict/${encodeURIComponent(model)}${query}`, "application/json", picture, signal, onWait);
  const age = response.headers.get("Age");
  return { ...parse(await response.text()), age: age === null ? null : Number(age) };
}

/** JSON in which whole numbers from 2^53 on stay exact, as BigInt. Older browsers do not say how a number was written. */
export function parse(text) {
  const isRounded = (value) => Number.isInteger(value) && !Number.isSafeInteger(value);
  const exact = (_, value, context) => (isRounded(value) && /^-?\d+$/.test(context?.source) ? BigInt(context.source) : value);
  return /\d{16}/.test(text) ? JSON.parse(text, exact) : JSON.parse(text);
}

/** The reverse of `parse`. */
export function stringify(value, indent) {
  const write = (_, each) => (typeof each === "bigint" ? JSON.rawJSON?.(String(each)) ?? Number(each) : each);
  return JSON.stringify(value, write, indent);
}

/** The picture as `model` sees it, or null where there is none: the answer matters more. */
export function seenBy(model, picture, { signal } = {}) {
  return post(`/input/${encodeURIComponent(model)}`, "image/png", picture, signal).then((response) => response.blob()).catch(() => null);
}

/**
 * Has `model` answer `inputs`, which are [File, path] each, as a job; an archive alone is sent as it is.
 * `onSent(share)` is told how much of them has gone, `onWait` of every wait. Resolves to the job.
 */
export async function submitJob(model, inputs, { signal, onWait, onSent }) {
  const [[first]] = inputs;
  const isAlone = inputs.length === 1 && isArchive(first);
  const body = isAlone ? first : new FormData();
  if (!isAlone) for (const [file, path] of inputs) body.append("file", file, path);
  const url = `/jobs?model=${encodeURIComponent(model)}`;
  const response = await insist(() => upload(url, body, signal, onSent), signal, onWait);
  return response.json();
}

/** The job of this id. */
export const findJob = (id, signal) => askJob(id, { signal }, "?limit=1");

/** Lets nothing further of the job begin. */
export const cancelJob = (id) => askJob(id, { method: "DELETE" });

/** Has what failed of the job tried once more. */
export const retryJob = (id) => askJob(id, { method: "POST" }, "/retry");

async function askJob(id, options, rest = "") {
  const response = await fetch(`/jobs/${encodeURIComponent(id)}${rest}`, options).catch(unreachable("The server did not answer."));
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

function post(url, accept, picture, signal, onWait) {
  const failed = unreachable("The server did not answer. It may be stopped, or the picture may be larger than it accepts.");
  return insist(() => {
    const body = new FormData();
    body.append("image", picture, picture.name);
    return fetch(url, { method: "POST", body, signal, headers: { Accept: accept } }).catch(failed);
  }, signal, onWait);
}

/** `fetch` does not say how much has gone, and with a folder of photographs one wants to know. */
function upload(url, body, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const failed = "The server did not take it. It may be stopped, or the pictures may be larger together than it accepts.";
    request.open("POST", url);
    // An archive that the browser knows no type for.
    if (body instanceof File && !body.type) request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded / Math.max(total, 1));
    request.onerror = () => reject(new Problem(failed));
    request.onabort = () => reject(signal.reason);
    request.onload = () => {
      const later = request.getResponseHeader("Retry-After");
      resolve(new Response(request.response, { status: request.status, headers: later === null ? {} : { "Retry-After": later } }));
    };
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

/** Asks with `send` until the server answers something else than 503, but not for ever. */
async function insist(send, signal, onWait) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await send();
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    const problem = await problemOf(response);
    if (response.status !== 503 || !(seconds >= 0) || attempt === TRIES || !onWait) throw problem;
    const wait = Math.min(Math.max(seconds, 1), LONGEST_WAIT_S);
    onWait(wait, problem.message);
    await pause(wait * 1000, signal);
  }
}

function unreachable(words) {
  return (error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(words);
  };
}

async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  return new Problem(told.detail || told.title || `The server answered ${response.status} without saying why.`, response.status);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
