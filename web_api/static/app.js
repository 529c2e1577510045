// The page's table of contents: which picture, which model, ask, show. Without this file the form still works.

import { Problem, cancelJob, findJob, predict, retryJob, seenBy, submitJob } from "./api.js";
import { copyCurl, showAnswer, wording } from "./answer.js";
import { drawingSheet } from "./draw.js";
import { askSeveral } from "./files.js";
import { dropped, isArchive, isInput, loose, ofFolder } from "./folders.js";
import { watchHealth } from "./health.js";
import { followJob, showSending } from "./job.js";
import { jobList } from "./jobs.js";
import { empty, thumbnail } from "./pictures.js";

const AFTER_STROKE_MS = 300; // many digits take two strokes: asking between them would be restless
const PREVIEWS = 5;
const FEW = 12; // more pictures than these are a job, which goes on when the page is closed
const ARCHIVES = ".zip,.tar,.tgz,.gz";

const byId = (id) => document.getElementById(id);
const [file, chooser, result, answerBox, errorBox] = ["file", "model", "result", "answer", "error"].map(byId);
let { models, reachable } = served(document);
const jobBox = byId("job");
const jobs = jobList(byId("jobs"));
let running = new AbortController();
let strokeTimer;
let inputs = []; // what is chosen, as [File, path, isSkipped]
let openJob = new URLSearchParams(location.search).get("job");

const sheet = drawingSheet(byId("canvas"), byId("undo"), byId("clear"), {
  onStart() { stop(); file.value = ""; inputs = []; showChosen(); },
  onStroke() { clearTimeout(strokeTimer); strokeTimer = setTimeout(ask, AFTER_STROKE_MS); },
  onEmpty() { stop(); state("empty"); },
});

file.multiple = true;
file.accept += `,${ARCHIVES}`;
for (const part of document.querySelectorAll(".js")) part.hidden = false;
if (answerBox.firstElementChild) copyCurl(answerBox);
chooseModel(new URLSearchParams(location.search).get("model"));
if (openJob) showJob(openJob);
watchHealth(() => ({ models, reachable }), adopt);

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
  if (result.ariaBusy === "true" || !jobBox.hidden) showPanel();
});
file.addEventListener("change", () => chosen(loose(file.files)));
byId("folder").addEventListener("change", (event) => received(ofFolder(event.target.files)));
byId("camera").addEventListener("change", (event) => received(loose(event.target.files)));
chooser?.addEventListener("change", () => {
  stop();
  toAddress();
  state("empty");
  chooseModel();
});
byId("stop").addEventListener("click", () => running.abort());
jobButton("cancel", async () => {
  if (openJob) await cancelJob(openJob);
  else { stop(); state("empty"); byId("predict").focus(); }
});
jobButton("retry", async () => {
  const id = openJob;
  await retryJob(id);
  if (id === openJob) showJob(id);
});
addEventListener("paste", ({ clipboardData: { files } }) => { if (files.length) received(loose(files)); });
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").dataset.over = true; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete byId("drop").dataset.over; });
addEventListener("drop", (event) => {
  event.preventDefault();
  delete byId("drop").dataset.over;
  // Text can be dropped as well.
  if (event.dataTransfer.files.length) dropped(event.dataTransfer).then(received, failed);
});

/** The models of a copy of the page, and whether model_api answered when it was made. */
function served(page) {
  const list = page.getElementById("models");
  return { models: JSON.parse(list.textContent), reachable: list.dataset.reachable === "true" };
}

/** Shows the models as a fresh copy of the page does. Other models need the whole page, which may not go while it is used. */
function adopt(page) {
  const fresh = served(page);
  const names = (list) => list.map(({ name }) => name).join("/");
  if (names(fresh.models) !== names(models)) {
    if (result.dataset.state === "empty" && inputs.length === 0 && sheet.isEmpty()) location.reload();
    return;
  }
  ({ models, reachable } = fresh);
  const of = (root, name) => [...root.querySelectorAll("[data-about]")].find(({ dataset }) => dataset.about === name);
  for (const { name } of models) of(document, name).replaceWith(document.adoptNode(of(page, name)));
  for (const option of chooser?.options ?? []) {
    option.textContent = [...page.querySelectorAll("#model option")].find(({ value }) => value === option.value).textContent;
  }
  chooseModel();
}

function chooseModel(wanted) {
  if (models.length > 1 && models.some(({ name }) => name === wanted)) chooser.value = wanted;
  for (const about of document.querySelectorAll("[data-about]")) about.hidden = about.dataset.about !== chooser.value;
  // Nothing is known of a model that is still loading: the form then says so. A job may be one of tensors.
  byId("form").hidden = chosenModel()?.state === "READY" && !chosenModel().image;
  document.querySelector(".columns").hidden = byId("form").hidden && !openJob;
  byId("fields").disabled = document.querySelector(".about:not([hidden])")?.dataset.blocked !== undefined;
  byId("draw").hidden = chosenModel()?.image?.fit !== "digit";
  if (chosenModel()) document.title = `${chosenModel().title} · MLServe`;
}

function chosenModel() {
  return models.find(({ name }) => name === chooser?.value);
}

/** What came another way than through the file field; the button is the next thing to press. */
function received(found) {
  if (!found.some(isInput)) return failed(new Problem("There is no picture in it."));
  const list = new DataTransfer();
  for (const [each] of found.filter(isInput)) list.items.add(each);
  file.files = list.files;
  chosen(found);
  byId("predict").focus();
}

function chosen(found) {
  inputs = found;
  stop();
  state("empty");
  sheet.wipe();
  showChosen();
}

function showChosen() {
  const list = byId("chosen");
  const shown = inputs.filter(isInput);
  const items = shown.slice(0, PREVIEWS).map(([each]) => (isArchive(each) ? each.name : thumbnail(each, each.name)));
  if (shown.length > PREVIEWS) items.push(`+ ${shown.length - PREVIEWS}`);
  empty(list);
  for (const item of items) list.appendChild(document.createElement("li")).append(item);
  // The name of a single archive stands in the file field already.
  list.hidden = items.length === 0 || typeof items[0] === "string" && items.length === 1;
}

/** The page's address names the model, and the job that is open: a reload shows both again. */
function toAddress() {
  const named = new URLSearchParams(chooser ? { model: chooser.value } : {});
  if (openJob) named.set("job", openJob);
  history.replaceState(null, "", `/?${named}`);
}

/** On a telephone the answer is below the button. */
function showPanel() {
  if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
}

/** Ends what is being asked and starts a new turn. */
function stop() {
  clearTimeout(strokeTimer);
  running.abort();
  running = new AbortController();
  errorBox.textContent = "";
  if (openJob) {
    openJob = null;
    toAddress();
  }
  return running.signal;
}

/** What the answer's panel shows: empty, busy, answer, several, job or failed. An old answer stays while a new one is asked for. */
function state(now, status = "") {
  result.dataset.state = now;
  result.ariaBusy = now === "busy";
  byId("status").textContent = status;
  byId("empty").hidden = !["empty", "failed"].includes(now);
  byId("several").hidden = now !== "several";
  jobBox.hidden = now !== "job";
  empty(byId("results").tBodies[0]);
  if (now === "busy") return;
  empty(answerBox);
  byId("quick").textContent = "";
}

async function ask() {
  if (byId("fields").disabled) return;
  const signal = stop();
  const model = chosenModel();
  try {
    if (!model) throw new Problem("No model is served at the moment.");
    const asked = inputs.length === 0 && !sheet.isEmpty() ? loose([await sheet.file()]) : inputs;
    if (asked.length === 0) throw new Problem("Upload an image first!");
    const isJob = asked.length > FEW || asked.some(([each, path]) => isArchive(each) || path !== each.name);
    const files = asked.map(([each]) => each);
    if (isJob) await askJob(model, asked, signal);
    else await (files.length === 1 ? askOne(model, files[0], signal) : askMany(model, files, signal));
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function failed(error) {
  state("failed");
  tellError(error);
}

function tellError(error) {
  errorBox.textContent = error instanceof Problem ? error.message : `The page failed: ${error.message}`;
  errorBox.scrollIntoView({ block: "nearest" });
}

async function askOne(model, picture, signal) {
  state("busy", "Asking the model …");
  const seen = seenBy(model.name, picture, { signal });
  const answer = await predict(model.name, picture, {
    signal,
    onWait: (seconds, why) => state("busy", `${why} Trying again in ${seconds} s …`),
  });
  signal.throwIfAborted();
  const said = wording(answer);
  state("answer", `${[said.label, said.value].filter(Boolean).join(", ")}. ${said.memory}.`);
  const label = Object.assign(document.createElement("strong"), { textContent: said.label });
  if (!sheet.isEmpty()) byId("quick").replaceChildren(label, ` ${[said.value, said.memory].filter(Boolean).join(" · ")}`);
  const showSeen = showAnswer(answerBox, answer, picture);
  showSeen(await seen);
}

async function askMany(model, files, signal) {
  state("several", "Asking the model …");
  result.ariaBusy = true;
  showNotice(byId("several"), model);
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

/** What must be said wherever a model's answers are shown. */
function showNotice(box, model) {
  const notice = box.querySelector('[data-slot="notice"]');
  notice.textContent = model?.notice ?? "";
  notice.hidden = !model?.notice;
}

/** Sends `asked` as a job; what was not sent to its end is lost with the page, so the page asks before it goes. */
async function askJob(model, asked, signal) {
  const name = nameOf(asked);
  const stay = (event) => event.preventDefault();
  state("job", "Sending …");
  showNotice(jobBox, model);
  showSending(jobBox, name, 0);
  addEventListener("beforeunload", stay);
  try {
    const job = await submitJob(model.name, asked, {
      signal,
      onSent: (share) => showSending(jobBox, name, share),
      onWait: (seconds, why) => showSending(jobBox, name, 0, `${why} Trying again in ${seconds} s …`),
    });
    jobs.add(job, name);
    follow(job, signal);
  } finally {
    removeEventListener("beforeunload", stay);
  }
}

/** A folder or an archive has a name; many pictures have none. */
function nameOf(asked) {
  if (asked.length === 1) return asked[0][1];
  const [top, ...tops] = new Set(asked.map(([, path]) => path.split("/")[0]));
  return tops.length === 0 ? top : `${asked.length} pictures`;
}

/** Shows a job that was sent before: by this page, or whoever gave its address away. */
async function showJob(id) {
  const signal = stop();
  openJob = id;
  toAddress();
  state("job", "Looking for the job …");
  showPanel();
  try {
    follow(await findJob(id, signal), signal);
  } catch (error) {
    if (!signal.aborted) lost(id, error);
  }
}

function follow(job, signal) {
  openJob = job.id;
  state("job");
  chooseModel(job.model);
  toAddress();
  const model = models.find((each) => each.name === job.model); // not the chosen one where it is served no more
  showNotice(jobBox, model);
  jobs.tell(job);
  followJob(jobBox, job, {
    name: jobs.nameOf(job.id) ?? "Job", noun: model?.image ? "pictures" : "inputs", signal,
    onChange: jobs.tell,
    announce(text) { byId("status").textContent = text; },
    onLost: (error) => lost(job.id, error),
  });
}

function lost(id, error) {
  if (error.status === 404 || error.status === 410) {
    jobs.drop(id);
    openJob = null;
    toAddress();
  }
  failed(error);
}

/** A button that goes away when it has been pressed would take the keyboard's place with it. */
function jobButton(name, press) {
  jobBox.querySelector(`[data-slot="${name}"]`).addEventListener("click", async () => {
    byId("result-heading").focus({ preventScroll: true });
    try {
      await press();
    } catch (error) {
      tellError(error);
    }
  });
}
