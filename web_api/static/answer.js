// Shows one result: copies the blank one that the server has rendered, and fills its slots.

import { predict, stringify } from "./api.js";
import { imageFigure, showImage, showLayers, thumbnail } from "./images.js";
import { allBars, display, listsAll, valueList } from "./results.js";

// Names of images that are not files yet: a drawing, and a pasted image as browsers name it. The curl command needs a file.
const UNSAVED_NAMES = ["drawing.png", "image.png"];
const MAX_IMAGES = 32;
const MAX_LINE_LENGTH = 1000;
const MAX_LINES = 1000;

/** Shows in `container` the result `answer` for `file`. Returns a function that shows the image after preprocessing. */
export function showAnswer(container, answer, file) {
  const view = document.getElementById("blank").content.firstElementChild.cloneNode(true);
  const slot = (name) => view.querySelector(`[data-slot="${name}"]`);
  const { age, ...json } = answer;
  const summary = resultTexts(answer);
  const parts = display(answer);
  const texts = {
    label: summary.label, percent: summary.value, cache: summary.cache, notice: answer.notice ?? "", total: summary.time,
    device: answer.device.toUpperCase(), model: answer.model, version: answer.version, hint: parts.hint ?? "",
    threshold: parts.threshold ?? "", json: truncated(stringify(json, 2)), curl: curlCommand(answer.model, file.name),
  };
  for (const [name, text] of Object.entries(texts)) slot(name).textContent = text;
  for (const name of ["notice", "hint", "threshold"]) slot(name).hidden = !texts[name];
  view.dataset.task = answer.task ?? "";
  slot("cache").dataset.cached = answer.cached;
  slot("bars").replaceChildren(...bars(parts));
  showAllClasses(slot, parts, answer, file);
  showOutputs(slot, parts.outputs ?? []);
  showVector(slot, parts.vector);
  enableCopyCurl(view);
  showImage(slot("uploaded"), file, UNSAVED_NAMES.find((name) => name === file.name));
  const maps = showImages(slot, parts, file);
  container.replaceChildren(view);
  return (image) => {
    if (!image) return;
    showImage(slot("preview"), image);
    if (maps) showLayers(slot("layers"), image, maps[0]);
  };
}

/** Short texts of a result, which are the same in a table row, in the full view and for a screen reader. */
export function resultTexts(answer) {
  const { label, value } = display(answer);
  return {
    label, value,
    cache: cacheText(answer),
    time: answer.timing_ms ? milliseconds(answer.timing_ms.total) : "",
  };
}

function cacheText({ cached, age }) {
  if (cached === undefined) return "";
  return cached ? ["Cached", ago(age)].filter(Boolean).join(" · ") : "Computed";
}

/** Thumbnail of a result that is an image. Otherwise null. */
export function resultThumbnail(answer) {
  const [first] = display(answer).images ?? [];
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

/** List of all classes. It is loaded when it is opened, because a response contains only the first classes. */
function showAllClasses(slot, { more, mark }, answer, file) {
  const details = slot("all");
  details.hidden = !more;
  slot("all-label").textContent = `All ${more} classes`;
  details.ontoggle = async () => {
    if (!details.open) return;
    details.ontoggle = null;
    try {
      const [all, left] = allBars(listsAll(answer) ? answer : await predict(answer.model, file, { topK: "all" }));
      slot("all-bars").replaceChildren(...bars({ bars: all, mark }));
      slot("all-rest").textContent = left ? `And ${left} more. A request with “top_k=all” returns all of them.` : "";
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
    [name, kind, text].forEach((content, index) => { row.cells[index].textContent = content; });
    return row;
  }));
}

function showVector(slot, vector) {
  slot("vector").hidden = !vector;
  if (!vector) return;
  slot("vector-text").textContent = `[${valueList(vector)}]`;
  enableCopy(slot("vector-copy"), () => stringify(vector), slot("vector-text"));
}

/** Shows the images of a result. Returns them where they are class maps, and otherwise null. */
function showImages(slot, { images = [], isMap = false }, { name }) {
  const stem = name.replace(/\.[^.]*$/, "") || "image";
  const blobs = images.slice(0, MAX_IMAGES).map(({ image }) => new Blob([bytesOf(image)], { type: "image/png" }));
  const figures = blobs.map((blob, index) => {
    const number = images.length > 1 ? ` ${index + 1}` : "";
    return imageFigure(blob, `${isMap ? "Class map" : "Result"}${number}`, `${stem}-result${number.trim() && `-${number.trim()}`}.png`);
  });
  slot("uploaded").after(...figures);
  return isMap && blobs.length > 0 ? blobs : null;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** Truncates long JSON: an image in base64, or thousands of numbers, would fill the page. */
function truncated(text) {
  const lines = text.split("\n");
  const short = lines.slice(0, MAX_LINES).map((line) => (
    line.length > MAX_LINE_LENGTH ? `${line.slice(0, MAX_LINE_LENGTH)}… ${line.length - MAX_LINE_LENGTH} more characters` : line));
  if (lines.length > MAX_LINES) short.push(`… ${lines.length - MAX_LINES} more lines`);
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

/** Quotes the name for the shell and for curl, where `;` `,` and `"` are special in a form field. */
function curlCommand(model, name) {
  const plain = /^[\w.-]+$/.test(name);
  const quoted = `'image=@"${name.replace(/[\\"]/g, "\\$&").replaceAll("'", "'\\''")}"'`;
  return `curl -F ${plain ? `image=@${name}` : quoted} ${location.origin}/predict/${model}`;
}

/** Enables the button that copies the curl command of `view`. */
export function enableCopyCurl(view) {
  const [button, curl] = ["copy", "curl"].map((name) => view.querySelector(`[data-slot="${name}"]`));
  enableCopy(button, () => curl.textContent, curl);
}

/** Enables a copy button. Browsers provide the clipboard API only for https and localhost; elsewhere the text of `element` is copied. */
function enableCopy(button, textOf, element) {
  const label = button.textContent;
  button.hidden = false;
  button.onclick = async () => {
    await (navigator.clipboard?.writeText(textOf()) ?? Promise.reject()).catch(() => {
      getSelection().selectAllChildren(element);
      document.execCommand("copy");
    });
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 2000);
  };
}
