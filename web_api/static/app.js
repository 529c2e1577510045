// The page's table of contents: which picture, which model, ask, show. Without this file the form still works.

import { Problem, predict, seenBy } from "./api.js";
import { copyButton, showAnswer, wording } from "./answer.js";
import { drawingSheet } from "./draw.js";
import { askSeveral } from "./files.js";
import { empty, thumbnail } from "./pictures.js";

const AFTER_STROKE_MS = 300; // many digits take two strokes: asking between them would be restless
const PREVIEWS = 5;

const byId = (id) => document.getElementById(id);
const [file, chooser, result, answerBox, errorBox] = ["file", "model", "result", "answer", "error"].map(byId);
const models = JSON.parse(byId("models").textContent);
let running = new AbortController();
let strokeTimer;

const sheet = drawingSheet(byId("canvas"), byId("undo"), byId("clear"), {
  onStart() { stop(); file.value = ""; showChosen(); },
  onStroke() { clearTimeout(strokeTimer); strokeTimer = setTimeout(ask, AFTER_STROKE_MS); },
  onEmpty() { stop(); state("empty"); },
});

file.multiple = true;
for (const part of document.querySelectorAll(".js")) part.hidden = false;
if (answerBox.firstElementChild) copyButton(answerBox);
chooseModel(new URLSearchParams(location.search).get("model"));

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
  // On a telephone the answer is below the button.
  if (result.ariaBusy === "true" && result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
});
file.addEventListener("change", filesChosen);
byId("camera").addEventListener("change", (event) => received(event.target.files));
chooser?.addEventListener("change", () => {
  history.replaceState(null, "", `/?model=${encodeURIComponent(chooser.value)}`);
  stop();
  state("empty");
  chooseModel();
});
byId("stop").addEventListener("click", () => running.abort());
addEventListener("paste", (event) => received(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").dataset.over = true; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete byId("drop").dataset.over; });
addEventListener("drop", (event) => { event.preventDefault(); delete byId("drop").dataset.over; received(event.dataTransfer.files); });

function chooseModel(wanted) {
  if (models.length > 1 && models.some(({ name }) => name === wanted)) chooser.value = wanted;
  for (const about of document.querySelectorAll("[data-about]")) about.hidden = about.dataset.about !== chooser.value;
  // Nothing is known of a model that is still loading: the form then says so.
  document.querySelector(".columns").hidden = chosenModel()?.state === "READY" && !chosenModel().image;
  byId("draw").hidden = chosenModel()?.image?.fit !== "digit";
  if (chosenModel()) document.title = `${chosenModel().title} · MLServe`;
}

function chosenModel() {
  return models.find(({ name }) => name === chooser?.value);
}

/** Pictures that came another way than through the file field; the button is the next thing to press. */
function received(files) {
  if (files.length === 0) return;
  const list = new DataTransfer();
  for (const each of files) list.items.add(each);
  file.files = list.files;
  filesChosen();
  byId("predict").focus();
}

function filesChosen() {
  stop();
  state("empty");
  sheet.wipe();
  showChosen();
}

function showChosen() {
  const list = byId("chosen");
  const items = [...file.files].slice(0, PREVIEWS).map((each) => thumbnail(each, each.name));
  if (file.files.length > PREVIEWS) items.push(`+ ${file.files.length - PREVIEWS}`);
  empty(list);
  for (const item of items) list.appendChild(document.createElement("li")).append(item);
  list.hidden = items.length === 0;
}

/** Ends what is being asked and starts a new turn. */
function stop() {
  clearTimeout(strokeTimer);
  running.abort();
  running = new AbortController();
  errorBox.textContent = "";
  return running.signal;
}

/** What the answer's panel shows: empty, busy, answer, several or failed. An old answer stays while a new one is asked for. */
function state(now, status = "") {
  result.dataset.state = now;
  result.ariaBusy = now === "busy";
  byId("status").textContent = status;
  byId("empty").hidden = !["empty", "failed"].includes(now);
  byId("several").hidden = now !== "several";
  empty(byId("results").tBodies[0]);
  if (now === "busy") return;
  empty(answerBox);
  byId("quick").textContent = "";
}

async function ask() {
  const signal = stop();
  const model = chosenModel();
  const files = [...file.files];
  try {
    if (!model) throw new Problem("No model is served at the moment.");
    if (files.length === 0 && !sheet.isEmpty()) files.push(await sheet.file());
    if (files.length === 0) throw new Problem("Upload an image first!");
    await (files.length === 1 ? askOne(model, files[0], signal) : askMany(model, files, signal));
  } catch (error) {
    if (signal.aborted) return;
    state("failed");
    errorBox.textContent = error instanceof Problem ? error.message : `The page failed: ${error.message}`;
    errorBox.scrollIntoView({ block: "nearest" });
  }
}

async function askOne(model, picture, signal) {
  state("busy", "Asking the model …");
  const seen = seenBy(model.name, picture, { signal });
  const answer = await predict(model.name, picture, {
    signal,
    onWait: (seconds, attempt) => state("busy", `The server is busy. Waiting ${seconds} s, then trying again (${attempt}) …`),
  });
  signal.throwIfAborted();
  const said = wording(answer);
  state("answer", `${said.label}, ${said.value}. ${said.memory}.`);
  const label = Object.assign(document.createElement("strong"), { textContent: said.label });
  if (!sheet.isEmpty()) byId("quick").replaceChildren(label, ` ${said.value} · ${said.memory}`);
  const showSeen = showAnswer(answerBox, answer, picture);
  showSeen(await seen);
}

async function askMany(model, files, signal) {
  state("several", "Asking the model …");
  result.ariaBusy = true;
  const notice = byId("several").querySelector('[data-slot="notice"]');
  notice.textContent = model.notice ?? "";
  notice.hidden = !model.notice;
  byId("stop").hidden = false;
  const answered = await askSeveral(files, model.name, {
    table: byId("results"), progress: byId("progress"), label: byId("progress-label"), signal,
    async onOpen(answer, picture) {
      empty(answerBox);
      const showSeen = showAnswer(answerBox, answer, picture);
      byId("result-heading").focus();
      showSeen(await seenBy(model.name, picture));
    },
  });
  if (running.signal !== signal) return; // another turn has begun
  result.ariaBusy = false;
  byId("stop").hidden = true;
  byId("status").textContent = `Finished: ${answered} of ${files.length} answered.`;
}
