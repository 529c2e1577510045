// Shows one answer: copies the blank one that the server rendered and fills its slots.

import { predict, stringify } from "./api.js";
import { layers, picture, showPicture, thumbnail } from "./pictures.js";
import { allBars, listed, listsAll, shown } from "./results.js";

// A drawing, or a pasted picture as browsers name it, is no file yet; the curl line needs one.
const NO_FILE_YET = ["drawing.png", "image.png"];
const MOST_PICTURES = 32;
const LONG_LINE = 1000;
const MOST_LINES = 1000;

/** Fills `container` with `answer` to `file`, a File. Returns what shows the picture as the model saw it. */
export function showAnswer(container, answer, file) {
  const view = document.getElementById("blank").content.firstElementChild.cloneNode(true);
  const slot = (name) => view.querySelector(`[data-slot="${name}"]`);
  const { age, ...json } = answer;
  const said = wording(answer);
  const parts = shown(answer);
  const texts = {
    label: said.label, percent: said.value, memory: said.memory, notice: answer.notice ?? "", total: said.time,
    device: answer.device.toUpperCase(), model: answer.model, version: answer.version, hint: parts.hint ?? "",
    threshold: parts.threshold ?? "", json: bounded(stringify(json, 2)), curl: curlLine(answer.model, file.name),
  };
  for (const [name, text] of Object.entries(texts)) slot(name).textContent = text;
  for (const name of ["notice", "hint", "threshold"]) slot(name).hidden = !texts[name];
  view.dataset.task = answer.task ?? "";
  slot("memory").dataset.remembered = answer.cached;
  slot("bars").replaceChildren(...bars(parts));
  showMore(slot, parts, answer, file);
  showOutputs(slot, parts.outputs ?? []);
  showVector(slot, parts.vector);
  copyCurl(view);
  showPicture(slot("sent"), file, NO_FILE_YET.find((name) => name === file.name));
  const maps = showImages(slot, parts, file);
  container.replaceChildren(view);
  return (seen) => {
    if (!seen) return;
    showPicture(slot("seen"), seen);
    if (maps) layers(slot("layers"), seen, maps[0]);
  };
}

/** The short texts of an answer, the same in a table row, in the full answer and for a screen reader. */
export function wording(answer) {
  const { label, value } = shown(answer);
  return {
    label, value,
    memory: memory(answer),
    time: answer.timing_ms ? milliseconds(answer.timing_ms.total) : "",
  };
}

function memory({ cached, age }) {
  if (cached === undefined) return "";
  return cached ? ["Remembered", ago(age)].filter(Boolean).join(" · ") : "Fresh";
}

/** The image that an answer is, small enough for a table row; nothing where it is none. */
export function smallImage(answer) {
  const [first] = shown(answer).images ?? [];
  return first ? thumbnail(new Blob([bytesOf(first.image)], { type: "image/png" })) : null;
}

function bars({ bars: all = [], mark }) {
  return all.map(({ label, text, share, isMarked, colour }) => {
    const row = document.createElement("li");
    row.innerHTML = '<span></span><svg aria-hidden="true"><rect height="100%"/></svg><span></span>';
    row.firstChild.textContent = label;
    row.lastChild.textContent = text;
    row.toggleAttribute("data-marked", Boolean(isMarked));
    const bar = row.querySelector("rect");
    bar.setAttribute("width", `${share * 100}%`);
    if (colour) bar.setAttribute("fill", colour);
    if (mark !== undefined) {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      for (const [name, value] of Object.entries({ x1: `${mark * 100}%`, x2: `${mark * 100}%`, y1: "0", y2: "100%" })) line.setAttribute(name, value);
      bar.after(line);
    }
    return row;
  });
}

/** All classes, which are fetched when they are opened: thousands are not sent with every answer. */
function showMore(slot, { more, mark }, answer, file) {
  const details = slot("all");
  details.hidden = !more;
  slot("all-label").textContent = `All ${more} classes`;
  details.ontoggle = async () => {
    if (!details.open) return;
    details.ontoggle = null;
    try {
      const [all, left] = allBars(listsAll(answer) ? answer : await predict(answer.model, file, { topK: "all" }));
      slot("all-bars").replaceChildren(...bars({ bars: all, mark }));
      slot("all-rest").textContent = left ? `And ${left} more, which “top_k=all” of the server's answer has.` : "";
    } catch (error) {
      slot("all-rest").textContent = error.message;
    }
  };
}

function showOutputs(slot, outputs) {
  slot("outputs").hidden = outputs.length === 0;
  slot("outputs").tBodies[0].replaceChildren(...outputs.map(({ name, kind, text }) => {
    const row = document.createElement("tr");
    row.innerHTML = '<th scope="row"></th><td></td><td></td>';
    [name, kind, text].forEach((words, place) => { row.cells[place].textContent = words; });
    return row;
  }));
}

function showVector(slot, vector) {
  slot("vector").hidden = !vector;
  if (!vector) return;
  slot("vector-text").textContent = `[${listed(vector)}]`;
  copyButton(slot("vector-copy"), () => stringify(vector), slot("vector-text"));
}

/** Returns the images where they are class maps, to lay over what the model saw. */
function showImages(slot, { images = [], isMap = false }, { name }) {
  const stem = name.replace(/\.[^.]*$/, "") || "image";
  const blobs = images.slice(0, MOST_PICTURES).map(({ image }) => new Blob([bytesOf(image)], { type: "image/png" }));
  const figures = blobs.map((blob, place) => {
    const number = images.length > 1 ? ` ${place + 1}` : "";
    return picture(blob, `${isMap ? "Class map" : "Result"}${number}`, `${stem}-result${number.trim() && `-${number.trim()}`}.png`);
  });
  slot("sent").after(...figures);
  return isMap && blobs.length > 0 ? blobs : null;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** An image, or thousands of numbers, would fill the page. */
function bounded(text) {
  const lines = text.split("\n");
  const short = lines.slice(0, MOST_LINES).map((line) => (
    line.length > LONG_LINE ? `${line.slice(0, LONG_LINE)}… ${line.length - LONG_LINE} more characters` : line));
  if (lines.length > MOST_LINES) short.push(`… ${lines.length - MOST_LINES} more lines`);
  return short.join("\n");
}

function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

function ago(seconds) {
  if (!(seconds >= 0)) return "";
  if (seconds < 5) return "just now";
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([length]) => seconds >= length) ?? [1, "s"];
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** Quoted for the shell, and for curl, to which `;` `,` and `"` mean something in a form field. */
function curlLine(model, name) {
  const plain = /^[\w.-]+$/.test(name);
  const quoted = `'image=@"${name.replace(/[\\"]/g, "\\$&").replaceAll("'", "'\\''")}"'`;
  return `curl -F ${plain ? `image=@${name}` : quoted} ${location.origin}/predict/${model}`;
}

/** Makes the copy button beside the curl line of `view` work. */
export function copyCurl(view) {
  const [button, curl] = ["copy", "curl"].map((name) => view.querySelector(`[data-slot="${name}"]`));
  copyButton(button, () => curl.textContent, curl);
}

/** Makes a copy button work. Browsers offer the clipboard only to https and localhost: elsewhere the text of `element` is copied. */
function copyButton(button, textOf, element) {
  const words = button.textContent;
  button.hidden = false;
  button.onclick = async () => {
    await (navigator.clipboard?.writeText(textOf()) ?? Promise.reject()).catch(() => {
      getSelection().selectAllChildren(element);
      document.execCommand("copy");
    });
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = words; }, 2000);
  };
}
