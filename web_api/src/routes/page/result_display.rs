//! Display of a result by its task, as text and bars. `static/results.js` has the same texts for browsers with JavaScript.

use contract::{
    Classification, Embedding, MultiLabel, Prediction, Regression, Scale, Segmentation, TopClass, TypedResult, Values,
};
use open_inference::{Task, class_colour};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::format::{class_value, count, dimensions, list, percentage, plain, threshold_text};

/// Number of classes up to which a prediction lists all of them.
const FEW_CLASSES: usize = 10;

/// Number of bars of a result with few classes.
const TOP: usize = 5;

/// Maximum number of bars in the list of all classes.
const MAX_BARS: usize = 1000;

/// Maximum number of rows of a classification.
const MAX_ROWS: usize = 32;

/// Maximum number of characters of a string in a tensor.
const MAX_TEXT_LENGTH: usize = 80;

/// Maximum number of outputs in the table.
const MAX_OUTPUTS: usize = 32;

/// Maximum number of outputs in the summary.
const MAX_NAMES: usize = 4;

const EMPTY: &str = "The model returned an empty result: it found nothing in this input.";
const DETECTION: &str = "The model detects objects. Its outputs are shown as they are: boxes are not decoded.";
const NO_TASK: &str = "The task of these outputs is unknown, so they are shown as they are. Declare it with “task” of an \
                       output in model-settings.json.";

/// Display of a result. Fields that its task does not have are empty.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ResultDisplay {
    pub label: String,
    pub value: String,
    pub hint: String,
    pub bars: Vec<Bar>,
    /// Threshold above which a class is present, as text.
    pub threshold: String,
    /// Position of the threshold in the bars, 0 to 1.
    pub mark: Option<f32>,
    /// Number of classes, where `bars` does not contain all of them.
    pub classes: usize,
    /// Bars of all classes, where `bars` does not contain all of them.
    pub all: Vec<Bar>,
    /// Number of classes without a bar, as text.
    pub rest: String,
    pub outputs: Vec<OutputRow>,
    /// First values of a vector, as text.
    pub vector: String,
}

/// Class with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub label: String,
    /// Value as text.
    pub text: String,
    /// Length of the bar, 0 to 1.
    pub share: f32,
    pub is_marked: bool,
    /// CSS color, where the class has one.
    pub colour: Option<String>,
}

/// Output tensor in the table.
#[derive(Debug, PartialEq)]
pub(super) struct OutputRow {
    pub name: String,
    pub kind: String,
    pub text: String,
}

/// Output tensor in the JSON of the Open Inference Protocol.
#[derive(Deserialize)]
struct OutputJson {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    data: Value,
}

impl ResultDisplay {
    /// Builds the display of `prediction`. `all` returns the prediction with all classes. It is called only where there are more than
    /// [`FEW_CLASSES`].
    pub fn new<'a>(prediction: &Prediction<'a>, all: impl FnOnce() -> Option<Prediction<'a>>) -> Self {
        let mut display = match &prediction.result {
            TypedResult::Classification(result) => classification(result),
            TypedResult::MultiLabel(result) => multi_label(result),
            TypedResult::Regression(result) => regression(result),
            TypedResult::Embedding(result) => embedding(result),
            TypedResult::Image(_) => images(prediction),
            TypedResult::Segmentation(result) => segmentation(prediction, result),
            TypedResult::Tensors(tensors) => outputs(prediction.task, tensors.outputs.get()),
        };
        if display.classes > FEW_CLASSES
            && let Some(all) = all()
        {
            display.set_all(all_bars(&all.result));
        }
        display
    }

    fn empty() -> Self {
        Self { label: "Empty result".to_owned(), hint: EMPTY.to_owned(), ..Self::default() }
    }

    fn set_all(&mut self, mut bars: Vec<Bar>) {
        let left = bars.len().saturating_sub(MAX_BARS);
        if left > 0 {
            self.rest = format!("And {left} more. A request with “top_k=all” returns all of them.");
        }
        bars.truncate(MAX_BARS);
        self.all = bars;
    }
}

fn classification(result: &Classification<'_>) -> ResultDisplay {
    let Classification { top, probabilities, rows, scale, classes, threshold } = result;
    let Some(TopClass { label, value, .. }) = top else { return ResultDisplay::empty() };
    let threshold =
        threshold.map(|threshold| format!("The second of two classes from {} on.", threshold_text(threshold, *scale)));
    // A pipeline may return several rows for one image. The value is that of the least certain row.
    let lowest_confidence = rows.iter().map(|row| row.value).reduce(f32::min).unwrap_or(*value);
    let mut display = ResultDisplay {
        label: label.to_string(),
        value: if *scale == Scale::Probability {
            percentage(lowest_confidence)
        } else {
            format!("score {}", plain(lowest_confidence))
        },
        threshold: threshold.unwrap_or_default(),
        ..ResultDisplay::default()
    };
    if !rows.is_empty() {
        display.label = rows.iter().map(|row| &*row.label).collect::<Vec<_>>().join(" ");
        let scores = rows.iter().take(MAX_ROWS).map(|row| (&*row.label, row.value, true)).collect();
        display.bars = bars(scores, *scale);
        return display;
    }
    let scores = class_scores(result);
    let top = if *classes > FEW_CLASSES { FEW_CLASSES } else { TOP };
    display.bars = bars(scores.iter().copied().take(top).collect(), *scale);
    if *classes > FEW_CLASSES || probabilities.len() > TOP {
        display.classes = *classes;
        display.set_all(bars(scores, *scale));
    }
    display
}

fn multi_label(result: &MultiLabel<'_>) -> ResultDisplay {
    let MultiLabel { labels, rows, threshold, scale, classes, .. } = result;
    if rows.as_ref().is_some_and(Vec::is_empty) {
        return ResultDisplay::empty();
    }
    let label = if labels.is_empty() { "None of the classes".to_owned() } else { labels.join(", ") };
    ResultDisplay {
        label,
        value: format!("{} of {classes} present", labels.len()),
        bars: bars(label_scores(result), *scale),
        threshold: format!("Present from {} on.", threshold_text(*threshold, *scale)),
        mark: (*scale == Scale::Probability).then_some(threshold.clamp(0.0, 1.0) as f32),
        classes: if *classes > FEW_CLASSES { *classes } else { 0 },
        hint: first_of(rows.as_ref()),
        ..ResultDisplay::default()
    }
}

/// Label, value, and whether the class is marked. Sorted by value, descending.
fn class_scores<'a>(result: &'a Classification<'_>) -> Vec<(&'a str, f32, bool)> {
    let mut scores: Vec<_> = result.probabilities.iter().map(|score| (&*score.label, score.value, false)).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    scores.first_mut().into_iter().for_each(|first| first.2 = true);
    scores
}

fn label_scores<'a>(result: &'a MultiLabel<'_>) -> Vec<(&'a str, f32, bool)> {
    let mut scores: Vec<_> =
        result.probabilities.iter().map(|score| (&*score.label, score.value, score.present)).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    scores
}

fn all_bars(result: &TypedResult<'_>) -> Vec<Bar> {
    match result {
        TypedResult::Classification(result) => bars(class_scores(result), result.scale),
        TypedResult::MultiLabel(result) => bars(label_scores(result), result.scale),
        _ => Vec::new(),
    }
}

/// Builds bars. The length of a probability is absolute, the length of a score is relative to the largest one.
fn bars(scores: Vec<(&str, f32, bool)>, scale: Scale) -> Vec<Bar> {
    let largest = scores.iter().map(|(_, value, _)| value.abs()).fold(f32::MIN_POSITIVE, f32::max);
    let full = if scale == Scale::Probability { 1.0 } else { largest };
    let bar = |(label, value, is_marked): (&str, f32, bool)| Bar {
        label: label.to_owned(),
        text: class_value(value, scale),
        share: (value / full).clamp(0.0, 1.0),
        is_marked,
        colour: None,
    };
    scores.into_iter().map(bar).collect()
}

fn regression(Regression { value, unit, rows }: &Regression<'_>) -> ResultDisplay {
    let Some(value) = value else { return ResultDisplay::empty() };
    let values = match rows {
        Some(rows) => rows.iter().flat_map(texts_of).collect(),
        None => texts_of(value),
    };
    ResultDisplay {
        label: list(&values),
        value: unit.unwrap_or_default().to_owned(),
        hint: rows.as_ref().map_or_else(String::new, |rows| format!("{} rows.", rows.len())),
        ..ResultDisplay::default()
    }
}

fn embedding(Embedding { embedding, dimensions, rows }: &Embedding) -> ResultDisplay {
    let Some(vector) = embedding else { return ResultDisplay::empty() };
    let values: Vec<_> = vector.iter().map(number).collect();
    ResultDisplay {
        label: count(*dimensions, "number", "numbers"),
        value: "embedding".to_owned(),
        vector: format!("[{}]", list(&values)),
        hint: first_of(rows.as_ref()),
        ..ResultDisplay::default()
    }
}

fn images(prediction: &Prediction<'_>) -> ResultDisplay {
    let images = prediction.result.images();
    let Some(first) = images.first() else { return ResultDisplay::empty() };
    ResultDisplay {
        label: if images.len() == 1 { "Image".to_owned() } else { format!("{} images", images.len()) },
        value: format!("{} × {}", first.width, first.height),
        ..ResultDisplay::default()
    }
}

fn segmentation(prediction: &Prediction<'_>, Segmentation { classes, rows, .. }: &Segmentation<'_>) -> ResultDisplay {
    let mut display = images(prediction);
    if prediction.result.images().is_empty() {
        return display;
    }
    let mut classes: Vec<_> = classes.iter().collect();
    classes.sort_by(|a, b| b.share.total_cmp(&a.share));
    if rows.is_none() {
        display.label = count(classes.len(), "class", "classes");
    }
    let bar = |class: &&contract::ClassShare<'_>| {
        let [red, green, blue] = class_colour(class.cls as u32);
        Bar {
            label: class.label.to_string(),
            text: percentage(class.share as f32),
            share: class.share as f32,
            is_marked: false,
            colour: Some(format!("#{red:02x}{green:02x}{blue:02x}")),
        }
    };
    display.bars = classes.iter().map(bar).collect();
    display.hint = first_of(rows.as_ref());
    display
}

/// Tensors without interpretation.
fn outputs(task: Task, json: &str) -> ResultDisplay {
    let outputs: Vec<OutputJson> = serde_json::from_str(json).unwrap_or_default();
    let row = |output: &OutputJson| {
        let mut values = Vec::new();
        flatten(&output.data, output.datatype == "BYTES", &mut values);
        let text = list(&values);
        OutputRow {
            name: output.name.clone(),
            kind: format!("{} {}", output.datatype, dimensions(&output.shape)),
            text: if text.is_empty() { "empty".to_owned() } else { text },
        }
    };
    let rows = outputs.iter().take(MAX_OUTPUTS).map(row).collect();
    if !outputs.is_empty() && outputs.iter().all(|output| output.shape.contains(&0)) {
        return ResultDisplay { outputs: rows, ..ResultDisplay::empty() };
    }
    let named = outputs.iter().take(MAX_NAMES).map(|output| format!("{} {}", output.name, dimensions(&output.shape)));
    let more = if outputs.len() > MAX_NAMES { " …" } else { "" };
    ResultDisplay {
        label: count(outputs.len(), "output", "outputs"),
        value: named.collect::<Vec<_>>().join(", ") + more,
        outputs: rows,
        hint: if task == Task::Detection { DETECTION } else { NO_TASK }.to_owned(),
        ..ResultDisplay::default()
    }
}

/// Flattens nested data into texts. Strings are quoted, except those that represent numbers, such as "NaN".
fn flatten(data: &Value, is_text: bool, values: &mut Vec<String>) {
    match data {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, is_text, values)),
        Value::String(text) if is_text => values.push(quoted(text)),
        Value::String(number) => values.push(number.clone()),
        Value::Number(number) => values.push(whole(&number.to_string())),
        other => values.push(other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    let truncated: String = text.chars().take(MAX_TEXT_LENGTH).collect();
    if truncated.len() < text.len() { format!("“{truncated}…”") } else { format!("“{truncated}”") }
}

fn texts_of(values: &Values) -> Vec<String> {
    match values {
        Values::One(one) => vec![number(one)],
        Values::Several(several) => several.iter().map(number).collect(),
    }
}

/// A number as in JSON.
fn number(value: &impl Serialize) -> String {
    whole(&serde_json::to_string(value).unwrap_or_default())
}

fn whole(number: &str) -> String {
    number.strip_suffix(".0").unwrap_or(number).to_owned()
}

fn first_of<T>(rows: Option<&Vec<T>>) -> String {
    match rows.map_or(0, Vec::len) {
        0 | 1 => String::new(),
        rows => format!("The first of {rows} rows; all are in the JSON."),
    }
}
