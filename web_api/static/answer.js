// Shows one answer: copies the blank one that the server rendered and fills its slots.

import { showPicture } from "./pictures.js";

const TOP = 5;
const MOST_ROWS = 32;
// A drawing, or a pasted picture as browsers name it, is no file yet; the curl line needs one.
const NO_FILE_YET = ["drawing.png", "image.png"];

/** Fills `container` with `answer` to `picture`, a File. Returns what shows the picture as the model saw it. */
export function showAnswer(container, answer, picture) {
  const view = document.getElementById("blank").content.firstElementChild.cloneNode(true);
  const slot = (name) => view.querySelector(`[data-slot="${name}"]`);
  const { age, ...json } = answer;
  const said = wording(answer);
  const texts = {
    label: said.label, percent: said.value, memory: said.memory, notice: answer.notice ?? "", total: said.time,
    device: answer.device.toUpperCase(), model: answer.model, version: answer.version,
    json: JSON.stringify(json, null, 2), curl: curlLine(answer.model, picture.name),
  };
  for (const [name, text] of Object.entries(texts)) slot(name).textContent = text;
  slot("memory").dataset.remembered = answer.cached;
  slot("notice").hidden = !answer.notice;
  slot("bars").replaceChildren(...bars(answer));
  copyButton(view);
  showPicture(slot("sent"), picture, NO_FILE_YET.find((name) => name === picture.name));
  container.replaceChildren(view);
  return (seen) => seen && showPicture(slot("seen"), seen);
}

/** The short texts of an answer, the same in a table row, in the full answer and for a screen reader. */
export function wording(answer) {
  return {
    // A pipeline may make several rows of one picture: all of them are said, and no more surely than the least sure one.
    label: answer.rows?.map(({ label }) => label).join(" ") ?? answer.label,
    value: number(Math.min(...(answer.rows ?? [answer]).map(({ value }) => value)), areShares(answer)),
    memory: answer.cached ? ["Remembered", ago(answer.age)].filter(Boolean).join(" · ") : "Fresh",
    time: milliseconds(answer.timing_ms.total),
  };
}

function bars(answer) {
  const shares = areShares(answer);
  const top = answer.rows?.slice(0, MOST_ROWS) ?? [...answer.probabilities].sort((a, b) => b.value - a.value).slice(0, TOP);
  const full = shares ? 1 : Math.max(...top.map(({ value }) => Math.abs(value)), Number.MIN_VALUE);
  return top.map(({ label, value }) => {
    const row = document.createElement("li");
    row.innerHTML = '<span></span><svg aria-hidden="true"><rect height="100%"/></svg><span></span>';
    row.firstChild.textContent = label;
    row.querySelector("rect").setAttribute("width", `${Math.min(Math.max(value / full, 0), 1) * 100}%`);
    row.lastChild.textContent = number(value, shares);
    return row;
  });
}

/** Whether the values can be read as per cent: a model may also answer with raw scores. */
function areShares({ probabilities, rows = [], value }) {
  return [value, ...[...probabilities, ...rows].map((each) => each.value)].every((each) => each >= -1e-4 && each <= 1.0001);
}

/** Never rounds up to a certainty that the model did not state. */
function number(value, isShare) {
  if (!isShare) return String(Number(value.toPrecision(5)));
  if (value < 1 && value >= 0.99995) return "> 99.99 %";
  if (value > 0 && value < 0.00005) return "< 0.01 %";
  return `${(value * 100).toFixed(2)} %`;
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

/** Makes the copy button of an answer work. Browsers offer the clipboard only to https and localhost: hence the old command. */
export function copyButton(view) {
  const [button, curl] = ["copy", "curl"].map((name) => view.querySelector(`[data-slot="${name}"]`));
  button.hidden = false;
  button.onclick = async () => {
    await (navigator.clipboard?.writeText(curl.textContent) ?? Promise.reject()).catch(() => {
      getSelection().selectAllChildren(curl);
      document.execCommand("copy");
    });
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
}
