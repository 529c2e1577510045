// How the page asks the server: the same routes that programs use.

const TRIES = 5;
const LONGEST_WAIT_S = 10;

/** What went wrong, in words for people. */
export class Problem extends Error {}

/**
 * Asks `model` what `picture` (a File) shows.
 * `onWait(seconds, attempt)` is told of every wait for a busy server.
 */
export async function predict(model, picture, { signal, onWait } = {}) {
  const response = await post(`/predict/${encodeURIComponent(model)}`, picture, signal, onWait);
  const age = response.headers.get("Age");
  return { ...(await response.json()), age: age === null ? null : Number(age) };
}

/** The picture as `model` sees it, or null where there is none: the answer matters more. */
export function seenBy(model, picture, { signal } = {}) {
  return post(`/input/${encodeURIComponent(model)}`, picture, signal).then((response) => response.blob()).catch(() => null);
}

async function post(url, picture, signal, onWait) {
  for (let attempt = 1; ; attempt += 1) {
    const body = new FormData();
    body.append("image", picture, picture.name);
    const response = await fetch(url, { method: "POST", body, signal, headers: { Accept: "application/json, image/png" } })
      .catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new Problem("The server did not answer. It may be stopped, or the picture may be larger than it accepts.");
      });
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !(seconds >= 0) || attempt === TRIES || !onWait) throw await problemOf(response);
    const wait = Math.min(Math.max(seconds, 1), LONGEST_WAIT_S);
    onWait(wait, attempt);
    await pause(wait * 1000, signal);
  }
}

async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  return new Problem(told.detail || told.title || `The server answered ${response.status} without saying why.`);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
