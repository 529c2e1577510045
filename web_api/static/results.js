// Display of a result by its task. The server renders the same texts for browsers without JavaScript: routes/page/result_display.rs.

const FEW_CLASSES = 10; // default number of classes in a response
const TOP = 5; // number of bars of a result with few classes
const MAX_BARS = 1000;
const MAX_ROWS = 32;
const MAX_VALUES = 8;
const MAX_OUTPUTS = 32;
const MAX_NAMES = 4;
const MAX_TEXT_LENGTH = 80;

const EMPTY = { label: "Empty result", hint: "The model returned an empty result: it found nothing in this input." };

const BY_TASK = { classification, multi_label: multiLabel, regression, embedding, image, segmentation };

/**
 * Display of `answer`: `label` and `value` are its short texts. Depending on its task, it has `bars` of { label, text, share (0 to 1),
 * isMarked, colour }, `more` (number of classes where not all have a bar), `threshold` and `mark` (its position, 0 to 1), `hint`,
 * `outputs` of { name, kind, text }, `vector`, and `images` of { image, width, height }, which are class maps where `isMap`.
 */
export function display(answer) {
  const isOld = answer.task === undefined && typeof answer.label === "string"; // a result from before results had a task
  return { value: "", ...(BY_TASK[isOld ? "classification" : answer.task] ?? tensors)(answer) };
}

/** Whether `answer` lists all of its classes. */
export const listsAll = ({ classes, probabilities }) => probabilities.length >= (classes ?? 0);

/** Bars of `answer`, which lists all classes, and the number of classes without a bar. */
export function allBars(answer) {
  const bars = answer.task === "multi_label" ? multiLabel(answer).bars : classBars(answer, largestFirst(answer.probabilities));
  return [bars.slice(0, MAX_BARS), Math.max(bars.length - MAX_BARS, 0)];
}

function classification(answer) {
  const { label, rows, scale, threshold } = answer;
  if (label === null) return EMPTY;
  const isSeveral = rows?.length > 0;
  // A pipeline may return several rows for one image. The value is that of the least certain row.
  const value = isSeveral ? Math.min(...rows.map((row) => row.value)) : answer.value;
  const classes = answer.classes ?? answer.probabilities.length;
  const top = largestFirst(answer.probabilities).slice(0, classes > FEW_CLASSES ? FEW_CLASSES : TOP);
  return {
    label: isSeveral ? rows.map((row) => row.label).join(" ") : label,
    value: scale === "probability" ? percentage(value) : `score ${plain(value)}`,
    bars: isSeveral ? classBars(answer, rows.slice(0, MAX_ROWS), true) : classBars(answer, top),
    more: !isSeveral && (classes > FEW_CLASSES || answer.probabilities.length > TOP) ? classes : 0,
    threshold: threshold === undefined ? "" : `The second of two classes from ${thresholdText(threshold, scale)} on.`,
  };
}

function multiLabel({ labels, probabilities, rows, scale, threshold, classes }) {
  if (rows?.length === 0) return EMPTY;
  const full = fullOf(probabilities, scale);
  const bars = largestFirst(probabilities).map(({ label, value, present }) => (
    { label, text: classValue(value, scale), share: share(value, full), isMarked: present }));
  return {
    label: labels.join(", ") || "None of the classes",
    value: `${labels.length} of ${classes} present`,
    bars,
    more: classes > FEW_CLASSES ? classes : 0,
    threshold: `Present from ${thresholdText(threshold, scale)} on.`,
    mark: scale === "probability" ? threshold : undefined,
    hint: firstOf(rows),
  };
}

function regression({ value, unit, rows }) {
  if (rows?.length === 0) return EMPTY;
  return { label: rows ? valueList(rows.flat()) : valueList([value].flat()), value: unit ?? "", hint: rows ? `${rows.length} rows.` : "" };
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
    { label: name, text: percentage(part), share: part, colour: colourOf(cls) }));
  return { label: images.length === 1 ? count(classes.length, "class", "classes") : label, value, images, isMap: true, bars, hint: firstOf(answer.rows) };
}

/** Tensors without interpretation: detections, and results without a task. */
function tensors({ task, outputs = [] }) {
  const named = outputs.map(({ name, datatype, shape, data }) => (
    { name, kind: `${datatype} ${dimensions(shape)}`, text: valueList([data].flat(Infinity), datatype === "BYTES") || "empty" }));
  const isEmpty = outputs.length > 0 && outputs.every(({ shape }) => shape.includes(0));
  const rows = named.slice(0, MAX_OUTPUTS);
  if (isEmpty) return { ...EMPTY, outputs: rows };
  return {
    label: count(outputs.length, "output"),
    value: outputs.slice(0, MAX_NAMES).map(({ name, shape }) => `${name} ${dimensions(shape)}`).join(", ") + (outputs.length > MAX_NAMES ? " …" : ""),
    outputs: rows,
    hint: { detection: DETECTION, none: NO_TASK }[task] ?? "",
  };
}

const DETECTION = "The model detects objects. Its outputs are shown as they are: boxes are not decoded.";
const NO_TASK = "The task of these outputs is unknown, so they are shown as they are. Declare it with “task” of an output in model-settings.json.";

function classBars({ scale }, scores, isEach = false) {
  const full = fullOf(scores, scale);
  return scores.map(({ label, value }, index) => (
    { label, text: classValue(value, scale), share: share(value, full), isMarked: isEach || index === 0 }));
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

/** A value of a class: a probability as a percentage, a score as a number. */
function classValue(value, scale) {
  return scale === "probability" ? percentage(value) : plain(value);
}

/** A threshold, without trailing zeros. */
function thresholdText(threshold, scale) {
  return scale === "probability" ? `${plain(threshold * 100)} %` : plain(threshold);
}

/** A probability as a percentage, never rounded to 0 % or 100 %. A value that is not a probability is a plain number. */
function percentage(value) {
  if (!(value >= -1e-4 && value <= 1.0001)) return plain(value);
  if (value < 1 && value >= 0.99995) return "> 99.99 %";
  if (value > 0 && value < 0.00005) return "< 0.01 %";
  return `${(value * 100).toFixed(2)} %`;
}

function plain(value) {
  return String(Number(value.toPrecision(5)));
}

/** The first of `values`, and the number of the others. Texts are quoted. */
export function valueList(values, isText = false) {
  const first = values.slice(0, MAX_VALUES).map((value) => (isText ? quoted(String(value)) : String(value))).join(", ");
  return values.length > MAX_VALUES ? `${first}, … ${values.length - MAX_VALUES} more` : first;
}

function quoted(text) {
  return text.length > MAX_TEXT_LENGTH ? `“${text.slice(0, MAX_TEXT_LENGTH)}…”` : `“${text}”`;
}

function dimensions(shape) {
  return shape.length === 0 ? "scalar" : shape.join(" × ");
}

function count(number, singular, plural = `${singular}s`) {
  return `${number} ${number === 1 ? singular : plural}`;
}

function firstOf(rows) {
  return rows?.length > 1 ? `The first of ${rows.length} rows; all are in the JSON.` : "";
}

/** Color of a class in a map, as on the server: the bits of its number, distributed over the three channels in turn. */
function colourOf(cls) {
  const channel = (first) => Array.from({ length: 8 }, (_, bit) => ((cls >> (3 * bit + first)) & 1) << (7 - bit)).reduce((a, b) => a | b, 0);
  return `#${[0, 1, 2].map((first) => channel(first).toString(16).padStart(2, "0")).join("")}`;
}
