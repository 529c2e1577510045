// Inference on several images: a few requests in flight, a progress bar, one table row per image.

import { predict } from "./api.js";
import { resultTexts } from "./answer.js";
import { thumbnail } from "./images.js";

const MAX_CONCURRENT = 4;

/** Runs inference on every file. `onOpen(answer, file)` shows one result in full. Resolves to the number of results. */
export async function predictAll(files, model, { table, progress, label, signal, onOpen }) {
  const waiting = files.map((file) => [file, table.tBodies[0].appendChild(newRow(file))]);
  let [succeeded, cached, failed] = [0, 0, 0];
  showProgress();
  await Promise.all(Array.from({ length: MAX_CONCURRENT }, async () => {
    while (waiting.length) await predictOne(...waiting.shift());
  }));
  return succeeded;

  async function predictOne(file, row) {
    try {
      signal.throwIfAborted();
      showState(row, "running", "Running …");
      const onWait = (seconds, reason) => showState(row, "running", `${reason} Retrying in ${seconds} s …`);
      const answer = await predict(model, file, { signal, onWait });
      const texts = resultTexts(answer);
      showState(row, "answered", `${texts.cache} · ${texts.time}`, texts.label, texts.value);
      const name = row.querySelector("button");
      name.disabled = false;
      name.onclick = () => onOpen(answer, file);
      succeeded += 1;
      cached += answer.cached ? 1 : 0;
    } catch (error) {
      showState(row, "failed", signal.aborted ? "Stopped" : error.message);
      failed += 1;
    }
    showProgress();
  }

  function showProgress() {
    progress.max = files.length;
    progress.value = succeeded + failed;
    const parts = [`${succeeded + failed} of ${files.length} images`];
    if (cached) parts.push(`${cached} cached`);
    if (failed) parts.push(`${failed} failed`);
    label.textContent = parts.join(" · ");
  }
}

function newRow(file) {
  const row = document.createElement("tr");
  row.innerHTML = '<td></td><th scope="row"><button type="button" class="link" disabled></button><small></small></th>'
    + "<td><strong></strong><small></small></td>";
  row.cells[0].append(thumbnail(file));
  row.querySelector("button").textContent = file.name;
  showState(row, "waiting", "Waiting");
  return row;
}

function showState(row, state, detail, label = "", value = "") {
  row.dataset.state = state;
  row.querySelector("strong").textContent = label;
  [row.cells[1], row.cells[2]].forEach((cell, i) => { cell.querySelector("small").textContent = [detail, value][i]; });
}
