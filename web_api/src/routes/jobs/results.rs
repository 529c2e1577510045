use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use db_api::jobs::{Job, Outcome};
use futures_util::stream;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use super::body::{ResultBody, ended};
use super::job_path::JobPath;
use crate::app::App;
use crate::error::Error;

/// Results read at once: so many, and of so many bytes together or one.
const AT_A_TIME: u32 = 500;
const PIECE_BYTES: usize = 1 << 20;

const COLUMNS: &str = "index,name,status,label,value,answer,error\r\n";

/// `?format=`
#[derive(Debug, Default, Deserialize)]
pub struct Wished {
    format: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv,
}

/// `GET /jobs/{id}/results`: a line for each input that has ended, in the inputs' order.
pub async fn collect(
    State(app): State<App>,
    JobPath(job): JobPath,
    wished: Result<Query<Wished>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = match wished.ok().and_then(|Query(wished)| wished.format).as_deref() {
        Some("csv") => Format::Csv,
        Some("ndjson") => Format::Ndjson,
        Some(_) => return Err(Error::Job("format is csv or ndjson".to_owned())),
        None if accept.contains("text/csv") => Format::Csv,
        None => Format::Ndjson,
    };
    // The first lines before the head is sent, so that a queue that does not answer is an error and no empty answer.
    let (first, next) = lines(&app, &job, 0, format).await?;
    let head = if format == Format::Csv { COLUMNS } else { "" };
    let first = Bytes::from(head.to_owned() + &first);
    let (media_type, extension) = match format {
        Format::Ndjson => ("application/x-ndjson", "ndjson"),
        Format::Csv => ("text/csv; charset=utf-8", "csv"),
    };
    let disposition = format!("attachment; filename=\"{}-{}.{extension}\"", job.model, &job.id.to_string()[..8]);
    let rest = stream::unfold((app, job, next), move |(app, job, from)| async move {
        if from >= job.total {
            return None;
        }
        // An answer that breaks off is seen to be broken, and ends there.
        let (lines, next) = match lines(&app, &job, from, format).await {
            Ok((lines, next)) => (Ok(Bytes::from(lines)), next),
            Err(error) => (Err(std::io::Error::other(error)), job.total),
        };
        Some((lines, (app, job, next)))
    });
    let body = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
    let headers = [
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Lines of the inputs from this one on, and the first input after them.
async fn lines(app: &App, job: &Job, from: u32, format: Format) -> Result<(String, u32), Error> {
    let mut lines = String::new();
    let page = ended(app, job.id, from..job.total.min(from + AT_A_TIME), PIECE_BYTES).await?;
    for (index, name, outcome) in &page.results {
        let index = *index;
        match format {
            Format::Ndjson => {
                let body = ResultBody::new(index, name, outcome)?;
                lines += &serde_json::to_string(&body).map_err(|_| Error::Internal)?;
                lines.push('\n');
            }
            Format::Csv => lines += &row(index, name, outcome),
        }
    }
    Ok((lines, page.next))
}

/// RFC 4180, with quotes around each text. The label and value of a class, the labels present in an input (joined by semicolons) and the one value of a regression
/// have columns of their own; any other answer is in JSON, without its images.
fn row(index: u32, name: &str, outcome: &Outcome) -> String {
    let read = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    let none = String::new;
    let (status, [label, value, answer], error) = match outcome {
        Outcome::Success(json) => ("succeeded", columns(json, read(json)), none()),
        Outcome::Error(json) => ("failed", [none(), none(), none()], quoted(&text(&read(json)["detail"]))),
    };
    format!("{index},{},{status},{label},{value},{answer},{error}\r\n", quoted(name))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Label, value and answer, as they stand in the row. A number has no quotes.
fn columns(json: &str, mut answer: Value) -> [String; 3] {
    let none = String::new;
    if answer["label"].is_string() {
        return [quoted(&text(&answer["label"])), number(&answer["value"]), none()];
    }
    match answer["task"].as_str() {
        Some("regression") if answer["value"].is_number() => [none(), number(&answer["value"]), none()],
        Some("multi_label") if answer["rows"].is_null() => {
            [quoted(&joined(answer["labels"].as_array().map_or(&[][..], Vec::as_slice))), none(), none()]
        }
        Some("image" | "segmentation") => {
            remove_images(&mut answer);
            [none(), none(), quoted(&answer.to_string())]
        }
        _ => [none(), none(), quoted(json)],
    }
}

/// What a multi-label result has found.
fn joined(labels: &[Value]) -> String {
    labels.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(";")
}

fn number(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { quoted(&text(value)) }
}

/// Images in base64 are longer than a cell of a table program may be.
fn remove_images(answer: &mut Value) {
    let Some(answer) = answer.as_object_mut() else { return };
    answer.remove("image");
    for row in answer.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        row.as_object_mut().map(|row| row.remove("image"));
    }
}

/// A text between quotes, and nothing for an empty one. An apostrophe goes before what a table program takes for a formula.
fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\"{}\"", harmless(text).replace('"', "\"\"")) }
}

/// A table program takes a cell that begins like a formula for one, also between quotes and after spaces. Where it takes semicolons,
/// tabs or line ends for separators, the text after each of them begins a cell.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len() + 1);
    let mut begins_cell = true;
    for char in text.chars() {
        if begins_cell && is_formula_start(char) {
            harmless.push('\'');
        }
        harmless.push(char);
        begins_cell = is_separator(char) || (begins_cell && (char.is_whitespace() || char == '"'));
    }
    harmless
}

/// Also the full-width forms, which some table programs read as their ASCII counterparts.
fn is_formula_start(char: char) -> bool {
    matches!(char, '=' | '+' | '-' | '@' | '\u{ff1d}' | '\u{ff0b}' | '\u{ff0d}' | '\u{ff20}')
}

fn is_separator(char: char) -> bool {
    matches!(char, ';' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_class_the_answer_or_the_error() {
        let answer = |json: &str| Outcome::Success(json.to_owned());
        assert_eq!(row(3, "a.png", &answer(r#"{"label":"7","value":0.5}"#)), "3,\"a.png\",succeeded,\"7\",0.5,,\r\n");
        let v2 = row(0, "", &answer(r#"{"outputs":[1,2]}"#));
        assert_eq!(v2, "0,,succeeded,,,\"{\"\"outputs\"\":[1,2]}\",\r\n");
        let error = Outcome::Error(r#"{"status":422,"detail":"no, not this"}"#.to_owned());
        assert_eq!(row(1, "b", &error), "1,\"b\",failed,,,,\"no, not this\"\r\n");
    }

    #[test]
    fn each_task_has_its_columns() {
        let row = |json: &str| row(0, "a", &Outcome::Success(json.to_owned()));
        let labels = row(r#"{"task":"multi_label","labels":["sun","=1+1"],"probabilities":[]}"#);
        assert_eq!(labels, "0,\"a\",succeeded,\"sun;'=1+1\",,,\r\n");
        assert_eq!(row(r#"{"task":"multi_label","labels":[]}"#), "0,\"a\",succeeded,,,,\r\n");
        assert_eq!(row(r#"{"task":"regression","value":-1.5,"unit":"kg"}"#), "0,\"a\",succeeded,,-1.5,,\r\n");
        assert!(row(r#"{"task":"regression","value":[1,2]}"#).contains(r#"""value"":[1,2]"#));
        let image = row(r#"{"task":"image","image":"iVBO","width":2,"rows":[{"image":"iVBO","width":2}]}"#);
        assert!(image.contains(r#"""width"":2"#) && !image.contains("iVBO"), "{image}");
        let nothing = row(r#"{"task":"classification","cls":null,"label":null,"rows":[]}"#);
        assert!(nothing.contains(r#"""rows"":[]"#), "{nothing}");
    }

    #[test]
    fn no_text_begins_a_formula_in_any_cell_that_it_can_become() {
        for (text, field) in [
            ("=1+1", "\"'=1+1\""),
            ("-0.5", "\"'-0.5\""),
            ("  =1+1", "\"  '=1+1\""),
            ("\u{a0}@SUM(A1)", "\"\u{a0}'@SUM(A1)\""),
            ("a;=1", "\"a;'=1\""),
            ("a; =1;+2", "\"a; '=1;'+2\""),
            ("a\t=1", "\"a\t'=1\""),
            ("a\r\n=1", "\"a\r\n'=1\""),
            ("\u{ff1d}1", "\"'\u{ff1d}1\""),
            ("\u{ff0b}1;\u{ff0d}1;\u{ff20}a", "\"'\u{ff0b}1;'\u{ff0d}1;'\u{ff20}a\""),
            ("a;\"=1\"", "\"a;\"\"'=1\"\"\""),
            ("a=1-b", "\"a=1-b\""),
            ("a, \"b\"", "\"a, \"\"b\"\"\""),
            ("", ""),
        ] {
            assert_eq!(quoted(text), field, "{text:?}");
        }
    }
}
