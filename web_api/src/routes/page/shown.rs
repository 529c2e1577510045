//! A typed result in the page's words, by its task. `static/results.js` has the same words for browsers with scripts.

use contract::{
    Classification, Embedding, MultiLabel, Prediction, Regression, Scale, Segmentation, TopClass, TypedResult, Values,
};
use open_inference::{Task, class_colour};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Up to this many classes are all listed in a prediction.
const FEW_CLASSES: usize = 10;

/// Bars of a result with few classes.
const TOP: usize = 5;

/// Bars of a list of all classes.
const MAX_BARS: usize = 1000;

/// Rows of a classification that are shown.
const MAX_ROWS: usize = 32;

/// Values of a tensor that are shown.
const MAX_VALUES: usize = 8;

/// Characters of a string in a tensor that are shown.
const MAX_TEXT: usize = 80;

/// Outputs that are shown.
const MAX_OUTPUTS: usize = 32;

/// Outputs that are named in a line of text.
const MAX_NAMES: usize = 4;

const EMPTY: &str = "The model returned an empty result: it found nothing in this input.";
const DETECTION: &str = "The model detects objects. Its outputs are shown as they are: boxes are not decoded.";
const NO_TASK: &str = "It is not known what these outputs mean, so they are shown as they are. “task” of an output in \
                       model-settings.json says it.";

/// What is shown of a result. A part that its task does not have is empty.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Shown {
    pub label: String,
    pub value: String,
    pub hint: String,
    pub bars: Vec<Bar>,
    /// From which value on a class is present.
    pub threshold: String,
    /// Its place in the bars, 0 to 1.
    pub mark: Option<f32>,
    /// How many classes there are, where not all have a bar.
    pub classes: usize,
    /// The bars of all classes, where not all are in `bars`.
    pub all: Vec<Bar>,
    /// How many classes have no bar at all.
    pub rest: String,
    pub outputs: Vec<OutputRow>,
    /// The first values of a vector.
    pub vector: String,
}

/// A class, its value as text and as a share of the bar, 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub label: String,
    pub text: String,
    pub share: f32,
    pub is_marked: bool,
    /// As CSS has it, where the class has one.
    pub colour: Option<String>,
}

/// An output that is shown as it is.
#[derive(Debug, PartialEq)]
pub(super) struct OutputRow {
    pub name: String,
    pub kind: String,
    pub text: String,
}

/// An output in the protocol's JSON.
#[derive(Deserialize)]
struct OutputJson {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    data: Value,
}

impl Shown {
    /// What is shown of `prediction`. `all` reads it with all classes, and is called where there are more than
    /// [`FEW_CLASSES`].
    pub fn of<'a>(prediction: &Prediction<'a>, all: impl FnOnce() -> Option<Prediction<'a>>) -> Self {
        let mut shown = match &prediction.result {
            TypedResult::Classification(result) => classification(result),
            TypedResult::MultiLabel(result) => multi_label(result),
            TypedResult::Regression(result) => regression(result),
            TypedResult::Embedding(result) => embedding(result),
            TypedResult::Image(_) => images(prediction),
            TypedResult::Segmentation(result) => segmentation(prediction, result),
            TypedResult::Tensors(tensors) => outputs(prediction.task, tensors.outputs.get()),
        };
        if shown.classes > FEW_CLASSES
            && let Some(all) = all()
        {
            shown.list(all_bars(&all.result));
        }
        shown
    }

    fn empty() -> Self {
        Self { label: "Empty result".to_owned(), hint: EMPTY.to_owned(), ..Self::default() }
    }

    fn list(&mut self, mut bars: Vec<Bar>) {
        let left = bars.len().saturating_sub(MAX_BARS);
        if left > 0 {
            self.rest = format!("And {left} more, which “top_k=all” of the server's answer has.");
        }
        bars.truncate(MAX_BARS);
        self.all = bars;
    }
}

fn classification(result: &Classification<'_>) -> Shown {
    let Classification { top, probabilities, rows, scale, classes, threshold } = result;
    let Some(TopClass { label, value, .. }) = top else { return Shown::empty() };
    let threshold =
        threshold.map(|threshold| format!("The second of two classes from {} on.", limit(threshold, *scale)));
    // A pipeline may make several rows of one image: all are said, and no more surely than the least sure one.
    let surest = rows.iter().map(|row| row.value).reduce(f32::min).unwrap_or(*value);
    let mut shown = Shown {
        label: label.to_string(),
        value: if *scale == Scale::Probability { percent(surest) } else { format!("score {}", plain(surest)) },
        threshold: threshold.unwrap_or_default(),
        ..Shown::default()
    };
    if !rows.is_empty() {
        shown.label = rows.iter().map(|row| &*row.label).collect::<Vec<_>>().join(" ");
        let scores = rows.iter().take(MAX_ROWS).map(|row| (&*row.label, row.value, true)).collect();
        shown.bars = bars(scores, *scale);
        return shown;
    }
    let scores = class_scores(result);
    let top = if *classes > FEW_CLASSES { FEW_CLASSES } else { TOP };
    shown.bars = bars(scores.iter().copied().take(top).collect(), *scale);
    if *classes > FEW_CLASSES || probabilities.len() > TOP {
        shown.classes = *classes;
        shown.list(bars(scores, *scale));
    }
    shown
}

fn multi_label(result: &MultiLabel<'_>) -> Shown {
    let MultiLabel { labels, rows, threshold, scale, classes, .. } = result;
    if rows.as_ref().is_some_and(Vec::is_empty) {
        return Shown::empty();
    }
    let label = if labels.is_empty() { "None of the classes".to_owned() } else { labels.join(", ") };
    Shown {
        label,
        value: format!("{} of {classes} present", labels.len()),
        bars: bars(label_scores(result), *scale),
        threshold: format!("Present from {} on.", limit(*threshold, *scale)),
        mark: (*scale == Scale::Probability).then_some(threshold.clamp(0.0, 1.0) as f32),
        classes: if *classes > FEW_CLASSES { *classes } else { 0 },
        hint: first_of(rows.as_ref()),
        ..Shown::default()
    }
}

/// Label, value, and whether the class is marked; the largest value first.
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

/// Probabilities fill their share of the bar; scores are shown against the largest.
fn bars(scores: Vec<(&str, f32, bool)>, scale: Scale) -> Vec<Bar> {
    let largest = scores.iter().map(|(_, value, _)| value.abs()).fold(f32::MIN_POSITIVE, f32::max);
    let full = if scale == Scale::Probability { 1.0 } else { largest };
    let bar = |(label, value, is_marked): (&str, f32, bool)| Bar {
        label: label.to_owned(),
        text: size(value, scale),
        share: (value / full).clamp(0.0, 1.0),
        is_marked,
        colour: None,
    };
    scores.into_iter().map(bar).collect()
}

fn regression(Regression { value, unit, rows }: &Regression<'_>) -> Shown {
    let Some(value) = value else { return Shown::empty() };
    let values = match rows {
        Some(rows) => rows.iter().flat_map(texts_of).collect(),
        None => texts_of(value),
    };
    Shown {
        label: listed(&values),
        value: unit.unwrap_or_default().to_owned(),
        hint: rows.as_ref().map_or_else(String::new, |rows| format!("{} rows.", rows.len())),
        ..Shown::default()
    }
}

fn embedding(Embedding { embedding, dimensions, rows }: &Embedding) -> Shown {
    let Some(vector) = embedding else { return Shown::empty() };
    let values: Vec<_> = vector.iter().map(number).collect();
    Shown {
        label: count(*dimensions, "number", "numbers"),
        value: "embedding".to_owned(),
        vector: format!("[{}]", listed(&values)),
        hint: first_of(rows.as_ref()),
        ..Shown::default()
    }
}

fn images(prediction: &Prediction<'_>) -> Shown {
    let images = prediction.result.images();
    let Some(first) = images.first() else { return Shown::empty() };
    Shown {
        label: if images.len() == 1 { "Image".to_owned() } else { format!("{} images", images.len()) },
        value: format!("{} × {}", first.width, first.height),
        ..Shown::default()
    }
}

fn segmentation(prediction: &Prediction<'_>, Segmentation { classes, rows, .. }: &Segmentation<'_>) -> Shown {
    let mut shown = images(prediction);
    if prediction.result.images().is_empty() {
        return shown;
    }
    let mut classes: Vec<_> = classes.iter().collect();
    classes.sort_by(|a, b| b.share.total_cmp(&a.share));
    if rows.is_none() {
        shown.label = count(classes.len(), "class", "classes");
    }
    let bar = |class: &&contract::ClassShare<'_>| {
        let [red, green, blue] = class_colour(class.cls as u32);
        Bar {
            label: class.label.to_string(),
            text: percent(class.share as f32),
            share: class.share as f32,
            is_marked: false,
            colour: Some(format!("#{red:02x}{green:02x}{blue:02x}")),
        }
    };
    shown.bars = classes.iter().map(bar).collect();
    shown.hint = first_of(rows.as_ref());
    shown
}

/// The tensors as they are.
fn outputs(task: Task, json: &str) -> Shown {
    let outputs: Vec<OutputJson> = serde_json::from_str(json).unwrap_or_default();
    let row = |output: &OutputJson| {
        let mut values = Vec::new();
        flatten(&output.data, output.datatype == "BYTES", &mut values);
        let text = listed(&values);
        OutputRow {
            name: output.name.clone(),
            kind: format!("{} {}", output.datatype, dimensions(&output.shape)),
            text: if text.is_empty() { "empty".to_owned() } else { text },
        }
    };
    let rows = outputs.iter().take(MAX_OUTPUTS).map(row).collect();
    if !outputs.is_empty() && outputs.iter().all(|output| output.shape.contains(&0)) {
        return Shown { outputs: rows, ..Shown::empty() };
    }
    let named = outputs.iter().take(MAX_NAMES).map(|output| format!("{} {}", output.name, dimensions(&output.shape)));
    let more = if outputs.len() > MAX_NAMES { " …" } else { "" };
    Shown {
        label: count(outputs.len(), "output", "outputs"),
        value: named.collect::<Vec<_>>().join(", ") + more,
        outputs: rows,
        hint: if task == Task::Detection { DETECTION } else { NO_TASK }.to_owned(),
        ..Shown::default()
    }
}

/// Texts are quoted, unless they stand for numbers, as "NaN" does.
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
    let cut: String = text.chars().take(MAX_TEXT).collect();
    if cut.len() < text.len() { format!("“{cut}…”") } else { format!("“{cut}”") }
}

fn texts_of(values: &Values) -> Vec<String> {
    match values {
        Values::One(one) => vec![number(one)],
        Values::Several(several) => several.iter().map(number).collect(),
    }
}

/// As JSON writes it.
fn number(value: &impl Serialize) -> String {
    whole(&serde_json::to_string(value).unwrap_or_default())
}

fn whole(number: &str) -> String {
    number.strip_suffix(".0").unwrap_or(number).to_owned()
}

/// The first of `values`, and how many more there are.
fn listed(values: &[String]) -> String {
    let first = values.iter().take(MAX_VALUES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match values.len().saturating_sub(MAX_VALUES) {
        0 => first,
        more => format!("{first}, … {more} more"),
    }
}

fn dimensions(shape: &[u64]) -> String {
    match shape {
        [] => "scalar".to_owned(),
        shape => shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × "),
    }
}

fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

fn first_of<T>(rows: Option<&Vec<T>>) -> String {
    match rows.map_or(0, Vec::len) {
        0 | 1 => String::new(),
        rows => format!("The first of {rows} rows; all are in the JSON."),
    }
}

/// Scores are numbers and never per cent.
fn size(value: f32, scale: Scale) -> String {
    if scale == Scale::Probability { percent(value) } else { plain(value) }
}

/// A threshold, without zeros at its end.
fn limit(threshold: f64, scale: Scale) -> String {
    let threshold = threshold as f32;
    if scale == Scale::Probability { format!("{} %", plain(threshold * 100.0)) } else { plain(threshold) }
}

/// Probabilities as per cent, never rounded to a certainty; what is none, as it is.
fn percent(value: f32) -> String {
    match f64::from(value) * 100.0 {
        percent if (99.995..100.0).contains(&percent) => "> 99.99 %".to_owned(),
        percent if percent > 0.0 && percent < 0.005 => "< 0.01 %".to_owned(),
        percent if (-0.01..=100.01).contains(&percent) => format!("{percent:.2} %"),
        _ => plain(value),
    }
}

/// Five significant digits.
fn plain(value: f32) -> String {
    format!("{value:.4e}").parse().map_or_else(|_| value.to_string(), |rounded: f64| rounded.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_cent_never_claims_a_certainty_that_rounding_made() {
        let shown = [1.0, 0.999_99, 0.5, 0.000_01, 0.0, -3.5, f32::NAN].map(percent);
        assert_eq!(shown, ["100.00 %", "> 99.99 %", "50.00 %", "< 0.01 %", "0.00 %", "-3.5", "NaN"]);
    }

    #[test]
    fn scores_are_numbers_of_five_digits() {
        let shown = [0.5, 12.345_678, -7.0, 1_234_567.0].map(|value| size(value, Scale::Score));
        assert_eq!(shown, ["0.5", "12.346", "-7", "1234600"]);
    }
}
