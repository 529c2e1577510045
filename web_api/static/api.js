// HTTP client of the page. It uses the same routes as other programs.

import { isArchive } from "./folders.js";

const MAX_ATTEMPTS = 5;
const MAX_RETRY_DELAY_S = 10;

/** Error with a message for the user, and the HTTP status where there was a response. */
export class Problem extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status;
  }
}

/**
 * Runs inference of `model` on `image` (a File). `topK` is the number of classes in the response, or "all".
 * `onWait(seconds, reason)` is called before each retry.
 */
export async function predict(model, image, { signal, onWait, topK } = {}) {
  const query = topK === undefined ? "" : `?top_k=${topK}`;
  const response = await post(`/predict/${encodeURIComponent(model)}${query}`, "application/json", image, signal, onWait);
  const age = response.headers.get("Age");
  return { ...parse(await response.text()), age: age === null ? null : Number(age) };
}

/** Parses JSON. Integers from 2^53 on are BigInt, so that they stay exact; older browsers do not provide their source text. */
export function parse(text) {
  const isRounded = (value) => Number.isInteger(value) && !Number.isSafeInteger(value);
  const exact = (_, value, context) => (isRounded(value) && /^-?\d+$/.test(context?.source) ? BigInt(context.source) : value);
  return /\d{16}/.test(text) ? JSON.parse(text, exact) : JSON.parse(text);
}

/** Inverse of `parse`. */
export function stringify(value, indent) {
  const write = (_, each) => (typeof each === "bigint" ? JSON.rawJSON?.(String(each)) ?? Number(each) : each);
  return JSON.stringify(value, write, indent);
}

/** The image after the preprocessing of `model`. Resolves to null after an error, because the result is valid without it. */
export function preview(model, image, { signal } = {}) {
  return post(`/input/${encodeURIComponent(model)}`, "image/png", image, signal).then((response) => response.blob()).catch(() => null);
}

/**
 * Submits `inputs`, a list of [File, path], as a job of `model`. A single archive is the request body itself.
 * `onSent(share)` reports the upload progress, `onWait` each retry. Resolves to the job.
 */
export async function submitJob(model, inputs, { signal, onWait, onSent }) {
  const [[first]] = inputs;
  const isAlone = inputs.length === 1 && isArchive(first);
  const body = isAlone ? first : new FormData();
  if (!isAlone) for (const [file, path] of inputs) body.append("file", file, path);
  const url = `/jobs?model=${encodeURIComponent(model)}`;
  const response = await withRetries(() => upload(url, body, signal, onSent), signal, onWait);
  return response.json();
}

/** Gets a job. */
export const findJob = (id, signal) => jobRequest(id, { signal }, "?limit=1");

/** Cancels a job. */
export const cancelJob = (id) => jobRequest(id, { method: "DELETE" });

/** Runs the failed inputs of a job again. */
export const retryJob = (id) => jobRequest(id, { method: "POST" }, "/retry");

async function jobRequest(id, options, rest = "") {
  const response = await fetch(`/jobs/${encodeURIComponent(id)}${rest}`, options).catch(unreachable("The server did not respond."));
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

function post(url, accept, image, signal, onWait) {
  const failed = unreachable("The server did not respond. It may be stopped, or the image may exceed its size limit.");
  return withRetries(() => {
    const body = new FormData();
    body.append("image", image, image.name);
    return fetch(url, { method: "POST", body, signal, headers: { Accept: accept } }).catch(failed);
  }, signal, onWait);
}

/** Uploads with XMLHttpRequest, because `fetch` does not report upload progress. */
function upload(url, body, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const failed = "The server did not accept the upload. It may be stopped, or the images may exceed its size limit.";
    request.open("POST", url);
    // An archive whose type the browser does not know.
    if (body instanceof File && !body.type) request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded / Math.max(total, 1));
    request.onerror = () => reject(new Problem(failed));
    request.onabort = () => reject(signal.reason);
    request.onload = () => {
      const retryAfter = request.getResponseHeader("Retry-After");
      resolve(new Response(request.response, { status: request.status, headers: retryAfter === null ? {} : { "Retry-After": retryAfter } }));
    };
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

/** Calls `send` until the response is not 503, at most MAX_ATTEMPTS times. */
async function withRetries(send, signal, onWait) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await send();
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    const problem = await problemOf(response);
    if (response.status !== 503 || !(seconds >= 0) || attempt === MAX_ATTEMPTS || !onWait) throw problem;
    const wait = Math.min(Math.max(seconds, 1), MAX_RETRY_DELAY_S);
    onWait(wait, problem.message);
    await delay(wait * 1000, signal);
  }
}

function unreachable(message) {
  return (error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(message);
  };
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  return new Problem(body.detail || body.title || `The server responded with ${response.status}, without a reason.`, response.status);
}

function delay(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
