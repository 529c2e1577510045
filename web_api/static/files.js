// Several pictures at once: a few in flight, a progress bar, one table row each.

import { predict } from "./api.js";
import { wording } from "./answer.js";
import { thumbnail } from "./pictures.js";

const AT_ONCE = 4;

/** Asks for every file; `onOpen(answer, file)` shows one in full. Resolves to how many were answered. */
export async function askSeveral(files, model, { table, progress, label, signal, onOpen }) {
  const waiting = files.map((file) => [file, table.tBodies[0].appendChild(newRow(file))]);
  let [answered, remembered, failed] = [0, 0, 0];
  tell();
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (waiting.length) await ask(...waiting.shift());
  }));
  return answered;

  async function ask(file, row) {
    try {
      signal.throwIfAborted();
      say(row, "asking", "Asking …");
      const onWait = (seconds, why) => say(row, "asking", `${why} Trying again in ${seconds} s …`);
      const answer = await predict(model, file, { signal, onWait });
      const said = wording(answer);
      say(row, "answered", `${said.memory} · ${said.time}`, said.label, said.value);
      const name = row.querySelector("button");
      name.disabled = false;
      name.onclick = () => onOpen(answer, file);
      answered += 1;
      remembered += answer.cached ? 1 : 0;
    } catch (error) {
      say(row, "failed", signal.aborted ? "Stopped" : error.message);
      failed += 1;
    }
    tell();
  }

  function tell() {
    progress.max = files.length;
    progress.value = answered + failed;
    const parts = [`${answered + failed} of ${files.length} pictures`];
    if (remembered) parts.push(`${remembered} remembered`);
    if (failed) parts.push(`${failed} without an answer`);
    label.textContent = parts.join(" · ");
  }
}

function newRow(file) {
  const row = document.createElement("tr");
  row.innerHTML = '<td></td><th scope="row"><button type="button" class="link" disabled></button><small></small></th>'
    + "<td><strong></strong><small></small></td>";
  row.cells[0].append(thumbnail(file));
  row.querySelector("button").textContent = file.name;
  say(row, "waiting", "Waiting");
  return row;
}

function say(row, state, detail, label = "", value = "") {
  row.dataset.state = state;
  row.querySelector("strong").textContent = label;
  [row.cells[1], row.cells[2]].forEach((cell, i) => { cell.querySelector("small").textContent = [detail, value][i]; });
}
