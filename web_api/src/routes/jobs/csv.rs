//! CSV (RFC 4180) of results. Every text is quoted, and protected against formula injection in spreadsheet programs.

use db_api::jobs::Outcome;
use serde_json::Value;

/// Header row.
pub(super) const HEADER: &str = "index,name,status,label,value,answer,error\r\n";

/// Row of one result.
///
/// A class, the present labels of a multi-label result (joined by semicolons) and a single value of a regression have columns of their
/// own. Any other result is JSON in the column `answer`, without its images.
pub(super) fn row(index: u32, name: &str, outcome: &Outcome) -> String {
    let parse = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    let none = String::new;
    let (status, [label, value, answer], error) = match outcome {
        Outcome::Success(json) => ("succeeded", columns(json, parse(json)), none()),
        Outcome::Error(json) => ("failed", [none(), none(), none()], quoted(&text(&parse(json)["detail"]))),
    };
    format!("{index},{},{status},{label},{value},{answer},{error}\r\n", quoted(name))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Columns `label`, `value` and `answer`. A number is not quoted.
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

/// Present labels of a multi-label result.
fn joined(labels: &[Value]) -> String {
    labels.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(";")
}

fn number(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { quoted(&text(value)) }
}

/// Removes images: in base64, they exceed the maximum cell length of spreadsheet programs.
fn remove_images(answer: &mut Value) {
    let Some(answer) = answer.as_object_mut() else { return };
    answer.remove("image");
    for row in answer.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        row.as_object_mut().map(|row| row.remove("image"));
    }
}

/// Quotes a text. An empty text has no quotes.
fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\"{}\"", escape_formulas(text).replace('"', "\"\"")) }
}

/// Inserts an apostrophe before everything that a spreadsheet program could interpret as a formula.
///
/// It interprets a cell as a formula by its first character, also inside of quotes and after spaces. If it treats semicolons, tabs or
/// line ends as separators, the text after each of them begins a cell.
fn escape_formulas(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 1);
    let mut begins_cell = true;
    for char in text.chars() {
        if begins_cell && is_formula_start(char) {
            escaped.push('\'');
        }
        escaped.push(char);
        begins_cell = is_separator(char) || (begins_cell && (char.is_whitespace() || char == '"'));
    }
    escaped
}

/// Includes the full-width forms, which some spreadsheet programs treat like their ASCII counterparts.
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
    fn a_row_has_a_class_a_json_result_or_an_error() {
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
    fn no_text_can_become_a_formula() {
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
