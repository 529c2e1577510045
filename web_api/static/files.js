// Several pictures at once: a few in flight, a progress bar, one table row each.

import { predict } from "./api.js";
import { wording } from "./answer.js";

const AT_ONCE = 4;

/** Asks for every file; `onOpen(answer, file)` shows one in full. Resolves to how many were answered. */
export async function askSeveral(files, model, { table, progress, label, signal, onOpen }) {
  const body = table.tBodies[0];
  const waiting = files.map((file) => [file, body.appendChild(newRow(file))]);
  const count = { done: 0, answered: 0, remembered: 0, failed: 0 };
  tell();
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return count;

  async function work() {
    while (waiting.length && !signal.aborted) await ask(...waiting.shift());
  }

  async function ask(file, row) {
    row.dataset.state = "asking";
    try {
      const answer = await predict(model, file, { signal, onWait: (s) => say(row, "", `server busy, waiting ${s} s`) });
      const said = wording(answer);
      row.dataset.state = "answered";
      say(row, answer.label, `${said.memory} · ${said.time}`, said.value);
      const name = row.querySelector("button");
      name.disabled = false;
      name.onclick = () => onOpen(answer, file);
      count.answered += 1;
      count.remembered += answer.cached ? 1 : 0;
    } catch (error) {
      row.dataset.state = "failed";
      say(row, "", error.name === "AbortError" ? "Stopped" : error.message);
      count.failed += 1;
    }
    count.done += 1;
    tell();
  }

  function tell() {
    progress.max = files.length;
    progress.value = count.done;
    const parts = [`${count.done} of ${files.length} pictures`];
    if (count.remembered) parts.push(`${count.remembered} remembered`);
    if (count.failed) parts.push(`${count.failed} without an answer`);
    label.textContent = parts.join(" · ");
  }
}

/** Takes the rows away and gives their pictures back to the browser. */
export function clearRows(table) {
  for (const image of table.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  table.tBodies[0].replaceChildren();
}

/** A small picture of `file`, or nothing where the browser cannot show it. */
export function thumbnail(file) {
  const image = Object.assign(new Image(40, 40), { alt: "", src: URL.createObjectURL(file) });
  image.onerror = () => { image.hidden = true; };
  return image;
}

function newRow(file) {
  const row = document.createElement("tr");
  const [preview, picture, answer] = [row.insertCell(), document.createElement("th"), document.createElement("td")];
  picture.scope = "row";
  row.append(picture, answer);
  row.dataset.state = "waiting";
  preview.append(thumbnail(file));
  const name = Object.assign(document.createElement("button"), { type: "button", className: "link", disabled: true });
  name.textContent = file.name;
  picture.append(name, document.createElement("small"));
  answer.append(document.createElement("strong"), document.createElement("small"));
  say(row, "", "Waiting");
  return row;
}

function say(row, label, detail, value = "") {
  row.cells[1].querySelector("small").textContent = detail;
  row.cells[2].querySelector("strong").textContent = label;
  row.cells[2].querySelector("small").textContent = value;
}
