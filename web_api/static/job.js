// Progress of one job. The job runs without the page: after a reload, the page receives all events again.

import { findJob, parse } from "./api.js";
import { resultTexts, resultThumbnail } from "./answer.js";

const MAX_SUCCEEDED_ROWS = 200; // the downloads have all of them
const MAX_FAILED_ROWS = 100;
const MAX_SKIPPED_NAMES = 3;
const RECONNECT_DELAY_MS = 2000;
const STATUS_TEXTS = { queued: "Waiting", running: "Working", succeeded: "Finished", failed: "Some failed", cancelled: "Cancelled" };
const ENDED = ["succeeded", "failed", "cancelled"];

export const hasEnded = (job) => ENDED.includes(job?.status);

export const statusText = ({ status, done }) => (status === "failed" && done === 0 ? "Failed" : STATUS_TEXTS[status] ?? status);

const MINUTE = { day: "numeric", month: "short", hour: "numeric", minute: "2-digit" };

export const timestamp = (time) => new Date(time).toLocaleString(undefined, MINUTE);

/** Shows in `box` the upload progress of `name`: the `share` (0 to 1) that was sent, or `message` instead. */
export function showUpload(box, name, share, message = "") {
  const slot = slots(box);
  blank(box);
  slot("name").textContent = name;
  showStatus(slot("status"), "Sending", "sending");
  slot("progress-label").textContent = message || (share < 1 ? `${Math.floor(share * 100)} % sent` : "Sent; the server reads the files …");
  Object.assign(slot("progress"), { max: 1, value: share });
  slot("cancel").hidden = false;
}

/**
 * Shows the progress of `job` in `box` until `signal` aborts. `noun` names its inputs. `onChange(job)` is called when its status changes,
 * `announce(text)` at every quarter of its progress, and `onLost(problem)` when the job no longer exists.
 */
export function followJob(box, job, { name, noun, signal, onChange, announce, onLost }) {
  const slot = slots(box);
  const body = box.querySelector("tbody");
  // By index, because an event may be received twice.
  const states = new Uint8Array(job.total);
  const counts = { succeeded: 0, failed: 0 };
  const shown = { succeeded: 0, failed: 0 };
  const remainingTime = timeEstimator(job);
  let [pending, frame, quarter, interrupted] = [[], 0, Math.floor(4 * ended() / job.total), false];
  let [events, reconnectTimer] = [null, 0];

  blank(box);
  slot("name").textContent = name;
  for (const format of ["csv", "ndjson"]) slot(format).href = `/jobs/${job.id}/results?format=${format}`;
  const clock = setInterval(draw, 1000);
  signal.addEventListener("abort", end, { once: true });
  update(job);
  listen();

  function listen() {
    events = new EventSource(`/jobs/${job.id}/events`);
    events.onopen = () => { interrupted = false; };
    events.addEventListener("status", ({ data }) => update(JSON.parse(data)));
    events.addEventListener("result", ({ data }) => addResult(parse(data)));
    // The browser reconnects by itself, and continues where it was, but not after an error response.
    events.onerror = () => {
      interrupted = !hasEnded(job);
      scheduleDraw();
      if (events.readyState === EventSource.CLOSED) reconnectTimer = setTimeout(reconnect, RECONNECT_DELAY_MS);
    };
  }

  async function reconnect() {
    try {
      update(await findJob(job.id, signal));
      listen();
    } catch (error) {
      if (signal.aborted) return;
      if (error.status !== 404 && error.status !== 410) { reconnectTimer = setTimeout(reconnect, RECONNECT_DELAY_MS); return; }
      end();
      onLost(error);
    }
  }

  function end() {
    events?.close();
    for (const timer of [clock, reconnectTimer]) clearTimeout(timer);
    cancelAnimationFrame(frame);
  }

  function update(now) {
    const hasChanged = now.status !== job.status;
    job = now;
    if (hasChanged) onChange(job);
    scheduleDraw();
  }

  function addResult(result) {
    const kind = result.status === "failed" ? "failed" : "succeeded";
    if (result.index >= states.length || states[result.index] !== 0) return;
    states[result.index] = 1;
    counts[kind] += 1;
    if (shown[kind] < (kind === "failed" ? MAX_FAILED_ROWS : MAX_SUCCEEDED_ROWS)) {
      shown[kind] += 1;
      pending.push(isDuplicate(job) ? { ...result, answer: { ...result.answer, cached: true } } : result);
    }
    scheduleDraw();
  }

  /** Draws at most once per frame, because thousands of events may arrive at once. */
  function scheduleDraw() {
    frame ||= requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    for (const result of pending) insert(body, newRow(result));
    pending = [];
    const isOver = hasEnded(job);
    const failed = Math.max(counts.failed, job.failed);
    const left = remainingTime(ended(), caughtUp() && job.status === "running");
    const parts = [`${ended()} of ${job.total} ${noun}`];
    if (failed) parts.push(`${failed} failed`);
    if (!isOver && interrupted) parts.push("reconnecting …");
    else if (!isOver && left !== null) parts.push(`about ${duration(left)} left`);
    slot("progress-label").textContent = parts.join(" · ");
    Object.assign(slot("progress"), { max: job.total, value: ended() });
    showStatus(slot("status"), statusText(job), job.status);
    slot("facts").textContent = facts(job);
    slot("cancel").hidden = isOver;
    slot("retry").hidden = job.status !== "failed";
    slot("downloads").hidden = ended() === 0;
    slot("csv").textContent = isOver ? "Download CSV" : "CSV so far";
    slot("table").hidden = body.rows.length === 0;
    const hidden = counts.succeeded + counts.failed - shown.succeeded - shown.failed;
    slot("more").hidden = hidden === 0;
    slot("more").textContent = `And ${hidden} more in the CSV.`;
    announceProgress(isOver);
    // After the last result: the final status may arrive before it.
    if (isOver && caughtUp()) end();
  }

  /** Announces quarters to screen readers, not every number. */
  function announceProgress(isOver) {
    const done = isOver ? 4 : Math.floor(4 * ended() / job.total);
    if (isOver && caughtUp()) announce(`${job.status === "cancelled" ? "Cancelled" : "Finished"}: ${job.done} of ${job.total} succeeded.`);
    else if (!isOver && done > quarter) announce(`${ended()} of ${job.total} ${noun}`);
    quarter = Math.max(quarter, done);
  }

  function ended() {
    return Math.max(counts.succeeded + counts.failed, job.done + job.failed);
  }

  function caughtUp() {
    return counts.succeeded + counts.failed >= job.done + job.failed;
  }
}

/** Returns a function that estimates the remaining seconds from the recent rate of results. It returns null while the rate is unknown. */
function timeEstimator({ total }) {
  const MAX_SAMPLES = 40;
  const SAMPLE_INTERVAL_MS = 500;
  const samples = []; // [time, number of results]
  return (ended, isRunning) => {
    const now = performance.now();
    // Waiting in the queue has no rate, and results from before the page was opened arrive in a burst.
    if (!isRunning) return null;
    if (samples.length === 0 || (ended > samples.at(-1)[1] && now - samples.at(-1)[0] >= SAMPLE_INTERVAL_MS)) samples.push([now, ended]);
    if (samples.length > MAX_SAMPLES) samples.shift();
    const [[from, before], [to, after]] = [samples[0], samples.at(-1)];
    if (to - from < 2 * SAMPLE_INTERVAL_MS || after === before) return null;
    return Math.max((total - ended) * (to - from) / (after - before) - (now - to), 1000) / 1000;
  };
}

function duration(seconds) {
  const [size, unit] = [[3600, "h"], [60, "min"]].find(([length]) => seconds >= 2 * length) ?? [1, "s"];
  return `${Math.round(seconds / size)} ${unit}`;
}

function facts(job) {
  const until = job.expires ? `kept until ${timestamp(job.expires)}` : "";
  const where = job.durable ? "" : "kept in this process only";
  const kept = until && where ? `${until}, in this process only` : until || where;
  return [job.model, `sent ${timestamp(job.created)}`, skippedText(job), kept].filter(Boolean).join(" · ");
}

/** Files of the submission that are not images. */
function skippedText({ skipped: { count, names } }) {
  if (count === 0) return "";
  const shown = names.slice(0, MAX_SKIPPED_NAMES);
  const more = count > shown.length ? ", …" : "";
  return `${count} ${count === 1 ? "file" : "files"} skipped (${shown.join(", ")}${more})`;
}

function newRow({ index, name, answer, error }) {
  const row = document.createElement("tr");
  row.innerHTML = '<th scope="row"><span></span><small></small></th><td><strong></strong><small></small></td>';
  row.dataset.index = index;
  row.dataset.state = error ? "failed" : "answered";
  const [detail, label, value] = error ? [error.detail, "", ""] : rowTexts(answer);
  row.querySelector("span").textContent = name || `Input ${index + 1}`;
  row.querySelector("strong").textContent = label;
  const image = error ? null : resultThumbnail(answer);
  if (image) row.cells[1].prepend(image);
  row.querySelectorAll("small").forEach((small, index) => { small.textContent = [detail, value][index]; });
  return row;
}

/** Whether the job was deduplicated against an earlier one. Its results are copies, so `cached` in them is false. */
function isDuplicate({ finished, runs }) {
  return finished !== null && runs === 0;
}

/** Texts of a row. A result of the Open Inference Protocol has no time. */
function rowTexts(answer) {
  const texts = resultTexts(answer);
  return [[texts.cache, texts.time].filter(Boolean).join(" · "), texts.label, texts.value];
}

/** Failed inputs come first. Within a state, the order is that of the inputs. */
function insert(body, row) {
  const isAfter = (other) => (other.dataset.state === row.dataset.state
    ? Number(other.dataset.index) > Number(row.dataset.index) : row.dataset.state === "failed");
  let before = body.lastElementChild;
  while (before && isAfter(before)) before = before.previousElementSibling;
  if (before) before.after(row); else body.prepend(row);
}

function blank(box) {
  const slot = slots(box);
  box.querySelector("tbody").replaceChildren();
  slot("facts").textContent = "";
  for (const name of ["cancel", "retry", "downloads", "table", "more"]) slot(name).hidden = true;
}

function slots(box) {
  return (name) => box.querySelector(`[data-slot="${name}"]`);
}

function showStatus(pill, text, status) {
  pill.textContent = text;
  pill.dataset.status = status;
}
