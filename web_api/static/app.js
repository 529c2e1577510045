// Main script of the page: selection of images and model, inference, display. Without it, the form still works.

import { Problem, cancelJob, findJob, predict, preview, retryJob, submitJob } from "./api.js";
import { enableCopyCurl, resultTexts, showAnswer } from "./answer.js";
import { drawingCanvas } from "./draw.js";
import { predictAll } from "./files.js";
import { droppedFiles, folderFiles, isArchive, isInput, singleFiles } from "./folders.js";
import { watchHealth } from "./health.js";
import { followJob, showUpload } from "./job.js";
import { jobList } from "./jobs.js";
import { clear, thumbnail } from "./images.js";

const STROKE_DELAY_MS = 300; // many digits have two strokes, and inference after the first one would be distracting
const MAX_THUMBNAILS = 5;
const MAX_DIRECT_IMAGES = 12; // more images become a job, which continues when the page is closed
const ARCHIVES = ".zip,.tar,.tgz,.gz";

const byId = (id) => document.getElementById(id);
const [file, chooser, result, answerBox, errorBox] = ["file", "model", "result", "answer", "error"].map(byId);
let { models, reachable } = modelsOf(document);
const jobBox = byId("job");
const jobs = jobList(byId("jobs"));
let running = new AbortController();
let strokeTimer;
let inputs = []; // selection, as [File, path, isSkipped]
let openJob = new URLSearchParams(location.search).get("job");

const canvas = drawingCanvas(byId("canvas"), byId("undo"), byId("clear"), {
  onStart() { stop(); file.value = ""; inputs = []; showSelection(); },
  onStroke() { clearTimeout(strokeTimer); strokeTimer = setTimeout(run, STROKE_DELAY_MS); },
  onEmpty() { stop(); setState("empty"); },
});

file.multiple = true;
file.accept += `,${ARCHIVES}`;
for (const part of document.querySelectorAll(".js")) part.hidden = false;
if (answerBox.firstElementChild) enableCopyCurl(answerBox);
chooseModel(new URLSearchParams(location.search).get("model"));
if (openJob) showJob(openJob);
watchHealth(() => ({ models, reachable }), updateModels);

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
  if (result.ariaBusy === "true" || !jobBox.hidden) showPanel();
});
file.addEventListener("change", () => select(singleFiles(file.files)));
byId("folder").addEventListener("change", (event) => received(folderFiles(event.target.files)));
byId("camera").addEventListener("change", (event) => received(singleFiles(event.target.files)));
chooser?.addEventListener("change", () => {
  stop();
  updateUrl();
  setState("empty");
  chooseModel();
});
byId("stop").addEventListener("click", () => running.abort());
jobButton("cancel", async () => {
  if (openJob) await cancelJob(openJob);
  else { stop(); setState("empty"); byId("predict").focus(); }
});
jobButton("retry", async () => {
  const id = openJob;
  await retryJob(id);
  if (id === openJob) showJob(id);
});
addEventListener("paste", ({ clipboardData: { files } }) => { if (files.length) received(singleFiles(files)); });
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").dataset.over = true; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete byId("drop").dataset.over; });
addEventListener("drop", (event) => {
  event.preventDefault();
  delete byId("drop").dataset.over;
  // Text can be dropped, too.
  if (event.dataTransfer.files.length) droppedFiles(event.dataTransfer).then(received, failed);
});

/** Models of a copy of the page, and whether model_api responded when it was rendered. */
function modelsOf(page) {
  const list = page.getElementById("models");
  return { models: JSON.parse(list.textContent), reachable: list.dataset.reachable === "true" };
}

/** Updates the models from a new copy of the page. A changed list needs a reload, which happens only while the page is not in use. */
function updateModels(page) {
  const fresh = modelsOf(page);
  const names = (list) => list.map(({ name }) => name).join("/");
  if (names(fresh.models) !== names(models)) {
    if (result.dataset.state === "empty" && inputs.length === 0 && canvas.isEmpty()) location.reload();
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
  // The inputs of a loading model are unknown, so the form stays. An open job may have tensors as inputs.
  byId("form").hidden = chosenModel()?.state === "READY" && !chosenModel().image;
  document.querySelector(".columns").hidden = byId("form").hidden && !openJob;
  byId("fields").disabled = document.querySelector(".about:not([hidden])")?.dataset.blocked !== undefined;
  byId("draw").hidden = chosenModel()?.image?.fit !== "digit";
  if (chosenModel()) document.title = `${chosenModel().title} · MLServe`;
}

function chosenModel() {
  return models.find(({ name }) => name === chooser?.value);
}

/** Selects files that did not come through the file field, and focuses the submit button. */
function received(found) {
  if (!found.some(isInput)) return failed(new Problem("There is no image in the selection."));
  const list = new DataTransfer();
  for (const [each] of found.filter(isInput)) list.items.add(each);
  file.files = list.files;
  select(found);
  byId("predict").focus();
}

function select(found) {
  inputs = found;
  stop();
  setState("empty");
  canvas.clear();
  showSelection();
}

function showSelection() {
  const list = byId("chosen");
  const shown = inputs.filter(isInput);
  const items = shown.slice(0, MAX_THUMBNAILS).map(([each]) => (isArchive(each) ? each.name : thumbnail(each, each.name)));
  if (shown.length > MAX_THUMBNAILS) items.push(`+ ${shown.length - MAX_THUMBNAILS}`);
  clear(list);
  for (const item of items) list.appendChild(document.createElement("li")).append(item);
  // The file field already shows the name of a single archive.
  list.hidden = items.length === 0 || typeof items[0] === "string" && items.length === 1;
}

/** Puts the model and the open job into the URL, so that a reload restores both. */
function updateUrl() {
  const query = new URLSearchParams(chooser ? { model: chooser.value } : {});
  if (openJob) query.set("job", openJob);
  history.replaceState(null, "", `/?${query}`);
}

/** Scrolls to the result, which is below the button on a small screen. */
function showPanel() {
  if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
}

/** Aborts running requests. Returns the signal for the next ones. */
function stop() {
  clearTimeout(strokeTimer);
  running.abort();
  running = new AbortController();
  errorBox.textContent = "";
  if (openJob) {
    openJob = null;
    updateUrl();
  }
  return running.signal;
}

/** Sets the state of the result panel: empty, busy, answer, several, job or failed. While busy, the last result stays visible. */
function setState(now, status = "") {
  result.dataset.state = now;
  result.ariaBusy = now === "busy";
  byId("status").textContent = status;
  byId("empty").hidden = !["empty", "failed"].includes(now);
  byId("several").hidden = now !== "several";
  jobBox.hidden = now !== "job";
  clear(byId("results").tBodies[0]);
  if (now === "busy") return;
  clear(answerBox);
  byId("quick").textContent = "";
}

async function run() {
  if (byId("fields").disabled) return;
  const signal = stop();
  const model = chosenModel();
  try {
    if (!model) throw new Problem("No model is served at the moment.");
    const selected = inputs.length === 0 && !canvas.isEmpty() ? singleFiles([await canvas.file()]) : inputs;
    if (selected.length === 0) throw new Problem("Upload an image first!");
    const isJob = selected.length > MAX_DIRECT_IMAGES || selected.some(([each, path]) => isArchive(each) || path !== each.name);
    const files = selected.map(([each]) => each);
    if (isJob) await submitAsJob(model, selected, signal);
    else await (files.length === 1 ? predictOne(model, files[0], signal) : predictMany(model, files, signal));
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function failed(error) {
  setState("failed");
  showError(error);
}

function showError(error) {
  errorBox.textContent = error instanceof Problem ? error.message : `The page failed: ${error.message}`;
  errorBox.scrollIntoView({ block: "nearest" });
}

async function predictOne(model, image, signal) {
  setState("busy", "Running inference …");
  const previewed = preview(model.name, image, { signal });
  const answer = await predict(model.name, image, {
    signal,
    onWait: (seconds, reason) => setState("busy", `${reason} Retrying in ${seconds} s …`),
  });
  signal.throwIfAborted();
  const texts = resultTexts(answer);
  setState("answer", `${[texts.label, texts.value].filter(Boolean).join(", ")}. ${texts.cache}.`);
  const label = Object.assign(document.createElement("strong"), { textContent: texts.label });
  if (!canvas.isEmpty()) byId("quick").replaceChildren(label, ` ${[texts.value, texts.cache].filter(Boolean).join(" · ")}`);
  const showPreview = showAnswer(answerBox, answer, image);
  showPreview(await previewed);
}

async function predictMany(model, files, signal) {
  setState("several", "Running inference …");
  result.ariaBusy = true;
  showNotice(byId("several"), model);
  byId("stop").hidden = false;
  const succeeded = await predictAll(files, model.name, {
    table: byId("results"), progress: byId("progress"), label: byId("progress-label"), signal,
    async onOpen(answer, image) {
      clear(answerBox);
      const showPreview = showAnswer(answerBox, answer, image);
      byId("result-heading").focus();
      showPreview(await preview(model.name, image));
    },
  });
  if (running.signal !== signal) return; // a newer run has started
  result.ariaBusy = false;
  byId("stop").hidden = true;
  byId("status").textContent = `Finished: ${succeeded} of ${files.length} succeeded.`;
}

/** Shows the notice of a model, which must accompany all of its results. */
function showNotice(box, model) {
  const notice = box.querySelector('[data-slot="notice"]');
  notice.textContent = model?.notice ?? "";
  notice.hidden = !model?.notice;
}

/** Submits the selection as a job. Leaving the page would abort the upload, so the browser asks for confirmation meanwhile. */
async function submitAsJob(model, selected, signal) {
  const name = nameOf(selected);
  const stay = (event) => event.preventDefault();
  setState("job", "Sending …");
  showNotice(jobBox, model);
  showUpload(jobBox, name, 0);
  addEventListener("beforeunload", stay);
  try {
    const job = await submitJob(model.name, selected, {
      signal,
      onSent: (share) => showUpload(jobBox, name, share),
      onWait: (seconds, reason) => showUpload(jobBox, name, 0, `${reason} Retrying in ${seconds} s …`),
    });
    jobs.add(job, name);
    follow(job, signal);
  } finally {
    removeEventListener("beforeunload", stay);
  }
}

/** Name of a selection: that of its folder or archive, or the number of images. */
function nameOf(selected) {
  if (selected.length === 1) return selected[0][1];
  const [top, ...tops] = new Set(selected.map(([, path]) => path.split("/")[0]));
  return tops.length === 0 ? top : `${selected.length} images`;
}

/** Shows a job that was submitted before: by this page, or by another client that has shared its URL. */
async function showJob(id) {
  const signal = stop();
  openJob = id;
  updateUrl();
  setState("job", "Loading the job …");
  showPanel();
  try {
    follow(await findJob(id, signal), signal);
  } catch (error) {
    if (!signal.aborted) lost(id, error);
  }
}

function follow(job, signal) {
  openJob = job.id;
  setState("job");
  chooseModel(job.model);
  updateUrl();
  const model = models.find((each) => each.name === job.model); // may differ from the chosen model, or be absent
  showNotice(jobBox, model);
  jobs.update(job);
  followJob(jobBox, job, {
    name: jobs.nameOf(job.id) ?? "Job", noun: model?.image ? "images" : "inputs", signal,
    onChange: jobs.update,
    announce(text) { byId("status").textContent = text; },
    onLost: (error) => lost(job.id, error),
  });
}

function lost(id, error) {
  if (error.status === 404 || error.status === 410) {
    jobs.drop(id);
    openJob = null;
    updateUrl();
  }
  failed(error);
}

/** Handles a button that disappears when it is pressed. The focus moves first, because it would be lost with the button. */
function jobButton(name, press) {
  jobBox.querySelector(`[data-slot="${name}"]`).addEventListener("click", async () => {
    byId("result-heading").focus({ preventScroll: true });
    try {
      await press();
    } catch (error) {
      showError(error);
    }
  });
}
