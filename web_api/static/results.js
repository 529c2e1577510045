// A result in the page's words, by its task. The server renders the same for browsers without scripts: routes/page/shown.rs.

const FEW_CLASSES = 10; // as many are in an answer unless more are asked for
const TOP = 5; // bars of a result with few classes
const MOST_BARS = 1000;
const MOST_ROWS = 32;
const MOST_VALUES = 8;
const MOST_OUTPUTS = 32;

const EMPTY = { label: "Empty result", hint: "The model returned an empty result: it found nothing in this input." };

const BY_TASK = { classification, multi_label: multiLabel, regression, embedding, image, segmentation };

/**
 * What is shown of `answer`: `label` and `value` are its short words. Where its task has them: `bars` of { label, text, share (0 to 1),
 * isMarked, colour }, `more` (how many classes there are where not all have a bar), `threshold` and `mark` (its place, 0 to 1), `hint`, `outputs` of { name, kind,
 * text }, `vector`, and `images` of { image, width, height }, which are class maps where `isMap`.
 */
export function shown(answer) {
  const isOld = answer.task === undefined && typeof answer.label === "string"; // of a job that ran before results had a task
  return { value: "", ...(BY_TASK[isOld ? "classification" : answer.task] ?? tensors)(answer) };
}

/** Whether `answer` lists all of its classes. */
export const listsAll = ({ classes, probabilities }) => probabilities.length >= (classes ?? 0);

/** The bars of `answer`, which lists all classes, and how many more classes there are than bars. */
export function allBars(answer) {
  const bars = answer.task === "multi_label" ? multiLabel(answer).bars : classBars(answer, largestFirst(answer.probabilities));
  return [bars.slice(0, MOST_BARS), Math.max(bars.length - MOST_BARS, 0)];
}

function classification(answer) {
  const { label, rows, scale, threshold } = answer;
  if (label === null) return EMPTY;
  const isSeveral = rows?.length > 0;
  // A pipeline may make several rows of one picture: all of them are said, and no more surely than the least sure one.
  const value = isSeveral ? Math.min(...rows.map((row) => row.value)) : answer.value;
  const classes = answer.classes ?? answer.probabilities.length;
  const top = largestFirst(answer.probabilities).slice(0, classes > FEW_CLASSES ? FEW_CLASSES : TOP);
  return {
    label: isSeveral ? rows.map((row) => row.label).join(" ") : label,
    value: scale === "probability" ? percent(value) : `score ${plain(value)}`,
    bars: isSeveral ? classBars(answer, rows.slice(0, MOST_ROWS), true) : classBars(answer, top),
    more: !isSeveral && (classes > FEW_CLASSES || answer.probabilities.length > TOP) ? classes : 0,
    threshold: threshold === undefined ? "" : `The second of two classes from ${limit(threshold, scale)} on.`,
  };
}

function multiLabel({ labels, probabilities, rows, scale, threshold, classes }) {
  if (rows?.length === 0) return EMPTY;
  const full = fullOf(probabilities, scale);
  const bars = largestFirst(probabilities).map(({ label, value, present }) => (
    { label, text: size(value, scale), share: share(value, full), isMarked: present }));
  return {
    label: labels.join(", ") || "None of the classes",
    value: `${labels.length} of ${classes} present`,
    bars,
    more: classes > FEW_CLASSES ? classes : 0,
    threshold: `Present from ${limit(threshold, scale)} on.`,
    mark: scale === "probability" ? threshold : undefined,
    hint: firstOf(rows),
  };
}

function regression({ value, unit, rows }) {
  if (rows?.length === 0) return EMPTY;
  return { label: rows ? listed(rows.flat()) : listed([value].flat()), value: unit ?? "", hint: rows ? `${rows.length} rows.` : "" };
}

function embedding({ embedding: vector, dimensions, rows }) {
  if (vector === null) return EMPTY;
  return { label: `${count(dimensions, "number")}`, value: "embedding", vector, hint: firstOf(rows) };
}

function image(answer) {
  const images = answer.rows ?? [answer];
  if (images.length === 0) return EMPTY;
  return { label: images.length === 1 ? "Image" : `${images.length} images`, value: `${images[0].width} × ${images[0].height}`, images };
}

function segmentation(answer) {
  const { label, value, images } = image(answer);
  if (!images) return EMPTY;
  const classes = [...answer.classes].sort((a, b) => b.share - a.share);
  const bars = classes.map(({ cls, label: name, share: part }) => (
    { label: name, text: percent(part), share: part, colour: colourOf(cls) }));
  return { label: images.length === 1 ? count(classes.length, "class", "classes") : label, value, images, isMap: true, bars, hint: firstOf(answer.rows) };
}

/** Detections, and whatever has no task: the tensors as they are. */
function tensors({ task, outputs = [] }) {
  const named = outputs.map(({ name, datatype, shape, data }) => (
    { name, kind: `${datatype} ${dimensions(shape)}`, text: listed([data].flat(Infinity), datatype === "BYTES") || "empty" }));
  const isEmpty = outputs.length > 0 && outputs.every(({ shape }) => shape.includes(0));
  const most = named.slice(0, MOST_OUTPUTS);
  if (isEmpty) return { ...EMPTY, outputs: most };
  return {
    label: count(outputs.length, "output"),
    value: outputs.slice(0, 4).map(({ name, shape }) => `${name} ${dimensions(shape)}`).join(", ") + (outputs.length > 4 ? " …" : ""),
    outputs: most,
    hint: { detection: DETECTION, none: NO_TASK }[task] ?? "",
  };
}

const DETECTION = "The model detects objects. Its outputs are shown as they are: boxes are not decoded.";
const NO_TASK = "It is not known what these outputs mean, so they are shown as they are. “task” of an output in model-settings.json says it.";

function classBars({ scale }, scores, isEach = false) {
  const full = fullOf(scores, scale);
  return scores.map(({ label, value }, place) => (
    { label, text: size(value, scale), share: share(value, full), isMarked: isEach || place === 0 }));
}

function largestFirst(scores) {
  return [...scores].sort((a, b) => b.value - a.value);
}

function fullOf(scores, scale) {
  return scale === "probability" ? 1 : Math.max(...scores.map(({ value }) => Math.abs(value)), Number.MIN_VALUE);
}

function share(value, full) {
  return Math.min(Math.max(value / full, 0), 1);
}

/** Scores are numbers and never per cent. */
function size(value, scale) {
  return scale === "probability" ? percent(value) : plain(value);
}

/** A threshold, without zeros at its end. */
function limit(threshold, scale) {
  return scale === "probability" ? `${plain(threshold * 100)} %` : plain(threshold);
}

/** Never rounds up to a certainty that the model did not state. */
function percent(value) {
  if (!(value >= -1e-4 && value <= 1.0001)) return plain(value);
  if (value < 1 && value >= 0.99995) return "> 99.99 %";
  if (value > 0 && value < 0.00005) return "< 0.01 %";
  return `${(value * 100).toFixed(2)} %`;
}

function plain(value) {
  return String(Number(value.toPrecision(5)));
}

/** The first of `values`, and how many more there are. Texts are quoted, unless they stand for numbers, as "NaN" does. */
export function listed(values, isText = false) {
  const first = values.slice(0, MOST_VALUES).map((value) => (isText ? shortened(String(value)) : String(value))).join(", ");
  return values.length > MOST_VALUES ? `${first}, … ${values.length - MOST_VALUES} more` : first;
}

function shortened(text) {
  return text.length > 80 ? `“${text.slice(0, 80)}…”` : `“${text}”`;
}

function dimensions(shape) {
  return shape.length === 0 ? "scalar" : shape.join(" × ");
}

function count(number, one, several = `${one}s`) {
  return `${number} ${number === 1 ? one : several}`;
}

function firstOf(rows) {
  return rows?.length > 1 ? `The first of ${rows.length} rows; all are in the JSON.` : "";
}

/** The colour that the server gives a class in a map: the bits of its number, dealt to the three colours in turn. */
function colourOf(cls) {
  const channel = (first) => Array.from({ length: 8 }, (_, place) => ((cls >> (3 * place + first)) & 1) << (7 - place)).reduce((a, b) => a | b, 0);
  return `#${[0, 1, 2].map((first) => channel(first).toString(16).padStart(2, "0")).join("")}`;
}
