// The page's one table of contents: which picture, which model, ask, show. Without this file the form still works.

import { Problem, predict, seenBy } from "./api.js";
import { clearAnswer, copyButton, showAnswer, wording } from "./answer.js";
import { drawingSheet } from "./draw.js";
import { askSeveral, clearRows, thumbnail } from "./files.js";

const NO_PICTURE = "Upload an image first!";
const AFTER_STROKE_MS = 300; // a 4 or a 5 needs a second stroke; asking between the two is harmless but restless
const PREVIEWS = 6;

const byId = (id) => document.getElementById(id);
const [form, file, camera, chooser, result] = ["form", "file", "camera", "model", "result"].map(byId);
const models = JSON.parse(byId("models").textContent);

let running = new AbortController();
let strokeTimer;

const sheet = drawingSheet(byId("canvas"), byId("undo"), byId("clear"), {
  onStart() { stop(); takeFiles([]); },
  onStroke() { clearTimeout(strokeTimer); strokeTimer = setTimeout(ask, AFTER_STROKE_MS); },
  onEmpty: reset,
});

file.multiple = true;
for (const part of document.querySelectorAll(".js")) part.hidden = false;
for (const button of document.querySelectorAll('#answer [data-slot="copy"]')) {
  copyButton(button, byId("answer").querySelector('[data-slot="curl"]'));
}
chooseModel(new URLSearchParams(location.search).get("model"));

form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
file.addEventListener("change", filesChosen);
camera.addEventListener("change", () => { takeFiles(camera.files); filesChosen(); });
chooser?.addEventListener("change", () => {
  history.replaceState(null, "", `?model=${encodeURIComponent(chooser.value)}`);
  reset();
  chooseModel();
});
byId("stop").addEventListener("click", () => running.abort());
addEventListener("paste", (event) => { if (event.clipboardData.files.length) received(event.clipboardData.files); });
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").dataset.over = true; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete byId("drop").dataset.over; });
addEventListener("drop", (event) => {
  event.preventDefault();
  delete byId("drop").dataset.over;
  if (event.dataTransfer.files.length) received(event.dataTransfer.files);
});

function model() {
  return models.find(({ name }) => name === chooser?.value);
}

function chooseModel(wanted) {
  if (wanted && chooser?.tagName === "SELECT" && models.some(({ name, image }) => name === wanted && image)) chooser.value = wanted;
  const chosen = model();
  for (const about of document.querySelectorAll("[data-about]")) about.hidden = about.dataset.about !== chosen?.name;
  byId("draw").hidden = chosen?.image?.fit !== "digit";
  if (chosen) document.title = `${chosen.title} · MLServe`;
}

/** Pictures that came by drop or paste: the button is the next thing to press. */
function received(files) {
  takeFiles(files);
  filesChosen();
  byId("predict").focus();
}

function takeFiles(files) {
  const list = new DataTransfer();
  for (const each of files) list.items.add(each);
  file.files = list.files;
  showChosen();
}

function filesChosen() {
  sheet.wipe();
  reset();
  showChosen();
}

function showChosen() {
  const list = byId("chosen");
  for (const image of list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  list.replaceChildren(...[...file.files].slice(0, PREVIEWS).map((each) => {
    const item = document.createElement("li");
    const image = thumbnail(each);
    image.alt = each.name;
    item.append(image);
    return item;
  }));
  if (file.files.length > PREVIEWS) list.append(Object.assign(document.createElement("li"), { textContent: `+ ${file.files.length - PREVIEWS}` }));
  list.hidden = file.files.length === 0;
}

function stop() {
  clearTimeout(strokeTimer);
  running.abort();
  running = new AbortController();
  byId("error").textContent = "";
  return running.signal;
}

function reset() {
  stop();
  state("empty");
}

/** What the right-hand side shows: empty, busy, answer, several or failed. */
function state(now, status = "") {
  result.dataset.state = now;
  result.setAttribute("aria-busy", now === "busy");
  byId("status").textContent = status;
  byId("empty").hidden = !["empty", "failed"].includes(now);
  byId("several").hidden = now !== "several";
  if (["empty", "failed", "several"].includes(now)) clearAnswer(byId("answer"));
  if (now !== "several") clearRows(byId("results"));
}

async function ask() {
  const signal = stop();
  const chosen = model();
  const files = [...file.files];
  try {
    if (!chosen) throw new Problem("No model is served at the moment.");
    if (files.length === 0 && !sheet.isEmpty()) files.push(await sheet.file());
    if (files.length === 0) throw new Problem(NO_PICTURE);
    await (files.length === 1 ? askOne(chosen, files[0], signal) : askMany(chosen, files, signal));
  } catch (error) {
    if (signal.aborted) return;
    state("failed");
    byId("error").textContent = error instanceof Problem ? error.message : `The page failed: ${error.message}`;
  }
}

async function askOne(chosen, picture, signal) {
  state("busy", "Asking the model …");
  const seen = seenBy(chosen.name, picture, { signal }).catch(() => null);
  const answer = await predict(chosen.name, picture, {
    signal,
    onWait: (seconds, attempt) => state("busy", `The server is busy. Waiting ${seconds} s, then trying again (${attempt}) …`),
  });
  signal.throwIfAborted();
  clearAnswer(byId("answer"));
  const shown = showAnswer(byId("answer"), answer, picture, chosen.notice);
  const said = wording(answer);
  state("answer", `${answer.label}, ${said.value}. ${said.memory}.`);
  shown.showSeen(await seen);
}

async function askMany(chosen, files, signal) {
  state("several");
  clearRows(byId("results"));
  const notice = byId("several").querySelector('[data-slot="notice"]');
  notice.textContent = chosen.notice ?? "";
  notice.hidden = !chosen.notice;
  byId("stop").hidden = false;
  const count = await askSeveral(files, chosen.name, {
    table: byId("results"), progress: byId("progress"), label: byId("progress-label"), signal,
    async onOpen(answer, picture) {
      clearAnswer(byId("answer"));
      const shown = showAnswer(byId("answer"), answer, picture, chosen.notice);
      byId("result-heading").focus();
      shown.showSeen(await seenBy(chosen.name, picture));
    },
  });
  byId("stop").hidden = true;
  byId("status").textContent = `Finished: ${count.answered} of ${files.length} answered.`;
}
