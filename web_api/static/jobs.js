// Jobs of this browser. Local storage has the list, and the server has the state of each job.

import { findJob } from "./api.js";
import { hasEnded, statusText, timestamp } from "./job.js";

const KEY = "mlserve.jobs";
const MAX_JOBS = 20;
const POLL_INTERVAL_MS = 3000;
const NOT_FOUND = [404, 410]; // unknown, or expired

/** Shows the list in `section`, and updates it while the page is open. */
export function jobList(section) {
  const list = section.querySelector("ul");
  const known = new Map(); // ID → last known state of the job
  let [timer, turn] = [0, 0];
  // Another window of this browser may have submitted a job.
  addEventListener("storage", refresh);
  document.addEventListener("visibilitychange", refresh);
  refresh();

  async function refresh() {
    clearTimeout(timer);
    draw();
    if (document.hidden) return;
    const mine = turn += 1;
    const open = read().filter(({ id }) => !hasEnded(known.get(id)));
    await Promise.all(open.map(async ({ id }) => {
      try {
        const job = await findJob(id);
        if (mine === turn) known.set(id, job); // otherwise it may be older than an update in between
      } catch (error) {
        if (NOT_FOUND.includes(error.status)) removeJob(id);
      }
    }));
    if (mine !== turn) return;
    draw();
    if (read().some(({ id }) => !hasEnded(known.get(id)))) timer = setTimeout(refresh, POLL_INTERVAL_MS);
  }

  function draw() {
    const ours = read();
    section.hidden = ours.length === 0;
    const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
    for (const [id, row] of rows) if (!ours.some((each) => each.id === id)) row.remove();
    // Rows are reused: a new list would lose the keyboard focus.
    for (const [index, each] of ours.entries()) {
      const row = rows.get(each.id) ?? newRow(each);
      if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
      fill(row, known.get(each.id));
    }
  }

  function newRow({ id, name }) {
    const row = document.createElement("li");
    row.dataset.id = id;
    row.innerHTML = '<div><a></a><small></small></div><small></small><span class="pill"></span>'
      + '<button type="button" class="link">Remove</button>';
    const [link, remove] = ["a", "button"].map((part) => row.querySelector(part));
    link.href = `/?job=${id}`;
    link.textContent = name;
    remove.ariaLabel = `Remove ${name} from this list`;
    remove.onclick = () => {
      const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("button");
      removeJob(id);
      draw();
      next?.focus();
    };
    return row;
  }

  function fill(row, job) {
    if (!job) return;
    const [facts, counts] = row.querySelectorAll("small");
    row.dataset.status = job.status;
    facts.textContent = `${job.model} · ${timestamp(job.created)}`;
    counts.textContent = `${job.done + job.failed} of ${job.total}${job.failed ? ` · ${job.failed} failed` : ""}`;
    row.querySelector(".pill").textContent = statusText(job);
    row.querySelector(".pill").dataset.status = job.status;
  }

  return {
    /** Updates the state of a job. */
    update(job) { known.set(job.id, job); refresh(); },
    add(job, name) { write([{ id: job.id, name }, ...read().filter(({ id }) => id !== job.id)]); this.update(job); },
    drop(id) { removeJob(id); draw(); },
    nameOf: (id) => read().find((each) => each.id === id)?.name,
  };
}

function removeJob(removed) {
  write(read().filter(({ id }) => id !== removed));
}

/** Storage may be disabled, and its content may be invalid. */
function read() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return stored.filter(({ id, name }) => /^[0-9a-f]{32}$/.test(id) && typeof name === "string");
  } catch {
    return [];
  }
}

function write(jobs) {
  try {
    localStorage.setItem(KEY, JSON.stringify(jobs.slice(0, MAX_JOBS)));
  } catch {
    // Without storage, a reload restores only the open job, from the URL.
  }
}
