// One job, as it goes on. It does so without the page, which only looks: whoever comes back later is told all of it again.

import { findJob, parse } from "./api.js";
import { smallImage, wording } from "./answer.js";

const MOST_ANSWERED = 200; // rows; the files have them all
const MOST_FAILED = 100;
const MOST_SKIPPED = 3; // names of files
const LOOK_AGAIN_MS = 2000;
const STATUS_WORDS = { queued: "Waiting", running: "Working", succeeded: "Finished", failed: "Some failed", cancelled: "Cancelled" };
const ENDED = ["succeeded", "failed", "cancelled"];

export const hasEnded = (job) => ENDED.includes(job?.status);

export const statusWord = ({ status, done }) => (status === "failed" && done === 0 ? "Failed" : STATUS_WORDS[status] ?? status);

const MINUTE = { day: "numeric", month: "short", hour: "numeric", minute: "2-digit" };

export const moment = (time) => new Date(time).toLocaleString(undefined, MINUTE);

/** Shows in `box` that `share` (0 to 1) of what is called `name` has been sent, or in `words` why not. */
export function showSending(box, name, share, words = "") {
  const slot = slots(box);
  blank(box);
  slot("name").textContent = name;
  say(slot("status"), "Sending", "sending");
  slot("progress-label").textContent = words || (share < 1 ? `${Math.floor(share * 100)} % sent` : "Sent; the server reads it …");
  Object.assign(slot("progress"), { max: 1, value: share });
  slot("cancel").hidden = false;
}

/**
 * Shows `job`, called `name`, in `box` until `signal`. `noun` is what its inputs are. `onChange(job)` is told when its status is another,
 * `announce(text)` now and then how far it is, `onLost(problem)` when there is no such job any more.
 */
export function followJob(box, job, { name, noun, signal, onChange, announce, onLost }) {
  const slot = slots(box);
  const body = box.querySelector("tbody");
  // By number: what has been told may be told once more.
  const states = new Uint8Array(job.total);
  const counts = { answered: 0, failed: 0 };
  const shown = { answered: 0, failed: 0 };
  const pace = paceOf(job);
  let [coming, frame, quarter, interrupted] = [[], 0, Math.floor(4 * ended() / job.total), false];
  let [events, again] = [null, 0];

  blank(box);
  slot("name").textContent = name;
  for (const format of ["csv", "ndjson"]) slot(format).href = `/jobs/${job.id}/results?format=${format}`;
  const clock = setInterval(draw, 1000);
  signal.addEventListener("abort", end, { once: true });
  become(job);
  listen();

  function listen() {
    events = new EventSource(`/jobs/${job.id}/events`);
    events.onopen = () => { interrupted = false; };
    events.addEventListener("status", ({ data }) => become(JSON.parse(data)));
    events.addEventListener("result", ({ data }) => came(parse(data)));
    // A browser comes back by itself to where it was, but not after an answer that is an error.
    events.onerror = () => {
      interrupted = !hasEnded(job);
      soon();
      if (events.readyState === EventSource.CLOSED) again = setTimeout(lookAgain, LOOK_AGAIN_MS);
    };
  }

  async function lookAgain() {
    try {
      become(await findJob(job.id, signal));
      listen();
    } catch (error) {
      if (signal.aborted) return;
      if (error.status !== 404 && error.status !== 410) { again = setTimeout(lookAgain, LOOK_AGAIN_MS); return; }
      end();
      onLost(error);
    }
  }

  function end() {
    events?.close();
    for (const timer of [clock, again]) clearTimeout(timer);
    cancelAnimationFrame(frame);
  }

  function become(now) {
    const isOther = now.status !== job.status;
    job = now;
    if (isOther) onChange(job);
    soon();
  }

  function came(result) {
    const kind = result.status === "failed" ? "failed" : "answered";
    if (result.index >= states.length || states[result.index] !== 0) return;
    states[result.index] = 1;
    counts[kind] += 1;
    if (shown[kind] < (kind === "failed" ? MOST_FAILED : MOST_ANSWERED)) {
      shown[kind] += 1;
      coming.push(isRepeated(job) ? { ...result, answer: { ...result.answer, cached: true } } : result);
    }
    soon();
  }

  /** Thousands may come at once; the page changes once a frame. */
  function soon() {
    frame ||= requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    for (const result of coming) insert(body, newRow(result));
    coming = [];
    const isOver = hasEnded(job);
    const failed = Math.max(counts.failed, job.failed);
    const left = pace(ended(), caughtUp() && job.status === "running");
    const parts = [`${ended()} of ${job.total} ${noun}`];
    if (failed) parts.push(`${failed} without an answer`);
    if (!isOver && interrupted) parts.push("connecting again …");
    else if (!isOver && left !== null) parts.push(`about ${duration(left)} left`);
    slot("progress-label").textContent = parts.join(" · ");
    Object.assign(slot("progress"), { max: job.total, value: ended() });
    say(slot("status"), statusWord(job), job.status);
    slot("facts").textContent = facts(job);
    slot("cancel").hidden = isOver;
    slot("retry").hidden = job.status !== "failed";
    slot("downloads").hidden = ended() === 0;
    slot("csv").textContent = isOver ? "Download CSV" : "CSV so far";
    slot("table").hidden = body.rows.length === 0;
    const hidden = counts.answered + counts.failed - shown.answered - shown.failed;
    slot("more").hidden = hidden === 0;
    slot("more").textContent = `And ${hidden} more, which are in the CSV.`;
    tell(isOver);
    // After the last result, and not with the status: that may be told before them.
    if (isOver && caughtUp()) end();
  }

  /** For those who hear the page: quarters, not every number. */
  function tell(isOver) {
    const done = isOver ? 4 : Math.floor(4 * ended() / job.total);
    if (isOver && caughtUp()) announce(`${job.status === "cancelled" ? "Cancelled" : "Finished"}: ${job.done} of ${job.total} answered.`);
    else if (!isOver && done > quarter) announce(`${ended()} of ${job.total} ${noun}`);
    quarter = Math.max(quarter, done);
  }

  function ended() {
    return Math.max(counts.answered + counts.failed, job.done + job.failed);
  }

  function caughtUp() {
    return counts.answered + counts.failed >= job.done + job.failed;
  }
}

/** A function that says how many seconds are left, from the pace at which answers came lately; null while nobody can know. */
function paceOf({ total }) {
  const MOST_SAMPLES = 40;
  const APART_MS = 500;
  const samples = []; // [when, how many]
  return (ended, isAtWork) => {
    const now = performance.now();
    // Waiting for its turn is no pace, and what had ended before this page looked comes in a burst.
    if (!isAtWork) return null;
    if (samples.length === 0 || (ended > samples.at(-1)[1] && now - samples.at(-1)[0] >= APART_MS)) samples.push([now, ended]);
    if (samples.length > MOST_SAMPLES) samples.shift();
    const [[from, before], [to, after]] = [samples[0], samples.at(-1)];
    if (to - from < 2 * APART_MS || after === before) return null;
    return Math.max((total - ended) * (to - from) / (after - before) - (now - to), 1000) / 1000;
  };
}

function duration(seconds) {
  const [size, unit] = [[3600, "h"], [60, "min"]].find(([length]) => seconds >= 2 * length) ?? [1, "s"];
  return `${Math.round(seconds / size)} ${unit}`;
}

function facts(job) {
  const until = job.expires ? `kept until ${moment(job.expires)}` : "";
  const where = job.durable ? "" : "kept in this process only";
  const kept = until && where ? `${until}, in this process only` : until || where;
  return [job.model, `sent ${moment(job.created)}`, skippedWords(job), kept].filter(Boolean).join(" · ");
}

/** What was sent with it and is no image, as the server counts it. */
function skippedWords({ skipped: { count, names } }) {
  if (count === 0) return "";
  const shown = names.slice(0, MOST_SKIPPED);
  const more = count > shown.length ? ", …" : "";
  return `${count} ${count === 1 ? "file" : "files"} skipped (${shown.join(", ")}${more})`;
}

function newRow({ index, name, answer, error }) {
  const row = document.createElement("tr");
  row.innerHTML = '<th scope="row"><span></span><small></small></th><td><strong></strong><small></small></td>';
  row.dataset.index = index;
  row.dataset.state = error ? "failed" : "answered";
  const [detail, label, value] = error ? [error.detail, "", ""] : texts(answer);
  row.querySelector("span").textContent = name || `Input ${index + 1}`;
  row.querySelector("strong").textContent = label;
  const image = error ? null : smallImage(answer);
  if (image) row.cells[1].prepend(image);
  row.querySelectorAll("small").forEach((small, place) => { small.textContent = [detail, value][place]; });
  return row;
}

/** The same job had ended before, and this one has its answers, to the letter: they were fresh then. */
function isRepeated({ finished, runs }) {
  return finished !== null && runs === 0;
}

/** An answer of the protocol has no times of its own. */
function texts(answer) {
  const said = wording(answer);
  return [[said.memory, said.time].filter(Boolean).join(" · "), said.label, said.value];
}

/** What failed comes first, since somebody has to look at it; then the inputs' order, whichever came first. */
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

function say(pill, word, status) {
  pill.textContent = word;
  pill.dataset.status = status;
}
