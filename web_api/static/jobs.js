// This browser's jobs: which there were, stands in its storage; how far they are, says the server.

import { findJob } from "./api.js";
import { hasEnded, moment, statusWord } from "./job.js";

const KEY = "mlserve.jobs";
const MOST = 20;
const LOOK_EVERY_MS = 3000;
const NO_MORE = [404, 410]; // never was, or its time is over

/** Keeps the list in `section` as it is, for as long as the page is open. */
export function jobList(section) {
  const list = section.querySelector("ul");
  const known = new Map(); // id → the job as it was last seen
  let [timer, turn] = [0, 0];
  // Another window of this browser may have sent one.
  addEventListener("storage", look);
  document.addEventListener("visibilitychange", look);
  look();

  async function look() {
    clearTimeout(timer);
    draw();
    if (document.hidden) return;
    const mine = turn += 1;
    const open = read().filter(({ id }) => !hasEnded(known.get(id)));
    await Promise.all(open.map(async ({ id }) => {
      try {
        const job = await findJob(id);
        if (mine === turn) known.set(id, job); // else it may be older than what has been told meanwhile
      } catch (error) {
        if (NO_MORE.includes(error.status)) forget(id);
      }
    }));
    if (mine !== turn) return;
    draw();
    if (read().some(({ id }) => !hasEnded(known.get(id)))) timer = setTimeout(look, LOOK_EVERY_MS);
  }

  function draw() {
    const ours = read();
    section.hidden = ours.length === 0;
    const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
    for (const [id, row] of rows) if (!ours.some((each) => each.id === id)) row.remove();
    // Rows stay where they are: a list that is made anew would take the keyboard's place away.
    for (const [place, each] of ours.entries()) {
      const row = rows.get(each.id) ?? newRow(each);
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
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
      forget(id);
      draw();
      next?.focus();
    };
    return row;
  }

  function fill(row, job) {
    if (!job) return;
    const [facts, counts] = row.querySelectorAll("small");
    row.dataset.status = job.status;
    facts.textContent = `${job.model} · ${moment(job.created)}`;
    counts.textContent = `${job.done + job.failed} of ${job.total}${job.failed ? ` · ${job.failed} failed` : ""}`;
    row.querySelector(".pill").textContent = statusWord(job);
    row.querySelector(".pill").dataset.status = job.status;
  }

  return {
    /** A job of this page, new or further on than before. */
    tell(job) { known.set(job.id, job); look(); },
    add(job, name) { write([{ id: job.id, name }, ...read().filter(({ id }) => id !== job.id)]); this.tell(job); },
    drop(id) { forget(id); draw(); },
    nameOf: (id) => read().find((each) => each.id === id)?.name,
  };
}

function forget(gone) {
  write(read().filter(({ id }) => id !== gone));
}

/** A browser may keep nothing for us, and somebody may have written something else there. */
function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return kept.filter(({ id, name }) => /^[0-9a-f]{32}$/.test(id) && typeof name === "string");
  } catch {
    return [];
  }
}

function write(jobs) {
  try {
    localStorage.setItem(KEY, JSON.stringify(jobs.slice(0, MOST)));
  } catch {
    // Then a reload knows the open job alone, by its address.
  }
}
