//! A model that is made of others: its settings are all that it has.
//!
//! ```text
//! model-settings.json → Definition (held against itself) → Wired (held against the models that its steps name)
//! ```
//!
//! Errors name the step and the field.

mod wiring;

use contract::{Edge, Pipeline, Source, Step, valid_model_name};

use crate::digest;
use crate::model_settings::{ModelSettings, StepSettings};
use crate::repository::ModelFiles;
use crate::unreadable::read_settings;
pub use wiring::Wired;

/// What a pipeline's settings say, and where they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Of which the settings are the only one.
    pub files: ModelFiles,
    /// All of them.
    pub settings: ModelSettings,
    /// The steps. Its outputs are those that the settings name, none where they name none.
    pub pipeline: Pipeline,
}

impl Definition {
    /// Reads the settings, and holds them against themselves.
    pub fn read(files: &ModelFiles) -> Result<Self, String> {
        let json = files.settings.as_deref().map(read_settings).transpose()?;
        let json = json.ok_or("there is no model-settings.json")?;
        Self::new(files, &json)
    }

    fn new(files: &ModelFiles, json: &[u8]) -> Result<Self, String> {
        let settings = ModelSettings::from_json(json, &files.name)?;
        if settings.parameters.independent_rows == Some(true) {
            return Err(
                "model-settings.json: parameters.independent_rows: rows are remembered by a pipeline's steps, \
                        where their models' settings say so"
                    .to_owned(),
            );
        }
        let mut steps: Vec<Step> = Vec::new();
        for (index, said) in settings.steps.iter().enumerate() {
            let step = read_step(said, files, &steps)
                .map_err(|reason| format!("model-settings.json: steps[{index}].{reason}"))?;
            steps.push(step);
        }
        let Some(last) = steps.last() else {
            return Err("model-settings.json: steps: a pipeline has one step at least".to_owned());
        };
        let mut outputs = Vec::new();
        for (index, said) in settings.outputs.iter().enumerate() {
            let of_last = || Source::Step { step: last.name.clone(), output: said.name.clone() };
            let from = said.from.clone().unwrap_or_else(of_last);
            check_output(&from, &steps)
                .map_err(|reason| format!("model-settings.json: outputs[{index}].from: {reason}"))?;
            outputs.push(Edge { name: said.name.clone(), from });
        }
        let pipeline = Pipeline { settings_digest: digest::of_settings(json), steps, outputs };
        Ok(Self { files: files.clone(), settings, pipeline })
    }
}

/// The error begins with the field's name.
fn read_step(said: &StepSettings, files: &ModelFiles, before: &[Step]) -> Result<Step, String> {
    let StepSettings { name, model, version, inputs } = said;
    let name = name.clone().unwrap_or_else(|| model.clone());
    if !valid_model_name(&name) || name.contains('.') {
        return Err(format!("name: {name:?} is not made of letters, digits, '_' and '-'"));
    }
    if before.iter().any(|step| step.name == name) {
        return Err(format!("name: {name:?} is there twice"));
    }
    if *model == files.name {
        return Err("model: a pipeline cannot be a step of itself".to_owned());
    }
    for (input, from) in inputs {
        check_source(from, before).map_err(|reason| format!("inputs.{input} (step {name:?}): {reason}"))?;
    }
    let wire = |(input, from): (&String, &Source)| Edge { name: input.clone(), from: from.clone() };
    Ok(Step { name, model: model.clone(), version: version.clone(), inputs: inputs.iter().map(wire).collect() })
}

fn check_source(from: &Source, before: &[Step]) -> Result<(), String> {
    match from {
        Source::Input(input) if input.is_empty() => Err("an input of the pipeline has a name".to_owned()),
        Source::Step { step, .. } if !before.iter().any(|other| other.name == *step) => {
            Err(format!("{from}: there is no step {step:?} before it{}", there_are(before)))
        }
        _ => Ok(()),
    }
}

fn check_output(from: &Source, steps: &[Step]) -> Result<(), String> {
    match from {
        Source::Input(_) => Err(format!("{from} is no step's output, as in \"{}.OUTPUT\"", steps[0].name)),
        Source::Step { step, .. } if !steps.iter().any(|other| other.name == *step) => {
            Err(format!("{from}: there is no step {step:?}{}", there_are(steps)))
        }
        Source::Step { .. } => Ok(()),
    }
}

fn there_are(steps: &[Step]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    format!("; there are: {}", steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Definition, String> {
        let files =
            ModelFiles { name: "p".to_owned(), version: "1".to_owned(), graph: None, settings: None, triton: None };
        Definition::new(&files, json.as_bytes())
    }

    #[test]
    fn a_step_is_called_as_its_model_and_gives_the_outputs_where_nothing_else_is_said() {
        let definition = read(
            r#"{"implementation": "pipeline", "outputs": [{"name": "y"}, {"name": "z", "from": "cut.crops"}],
                "steps": [{"model": "cut", "inputs": {"image": "picture"}},
                          {"name": "read", "model": "mnist", "version": "3", "inputs": {"image": "cut.crops"}}]}"#,
        )
        .unwrap();
        let names: Vec<_> = definition.pipeline.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["cut", "read"]);
        assert_eq!(definition.pipeline.steps[1].version.as_deref(), Some("3"));
        let from: Vec<_> = definition.pipeline.outputs.iter().map(|wire| wire.from.to_string()).collect();
        assert_eq!(from, ["\"read.y\"", "\"cut.crops\""]);
    }

    #[test]
    fn a_contradiction_within_the_settings_names_the_step_and_the_field() {
        let steps = |steps: &str| format!(r#"{{"steps": [{{"model": "cut", "inputs": {{"image": "x"}}}}{steps}]}}"#);
        for (json, words) in [
            ("{}".to_owned(), "steps: a pipeline has one step at least"),
            (steps(r#", {"model": "p", "inputs": {}}"#), "steps[1].model: a pipeline cannot be a step of itself"),
            (steps(r#", {"model": "cut", "inputs": {}}"#), "steps[1].name: \"cut\" is there twice"),
            (steps(r#", {"model": "v1.5", "inputs": {}}"#), "steps[1].name: \"v1.5\" is not made of letters"),
            (
                steps(r#", {"model": "b", "inputs": {"x": "cutt.crops"}}"#),
                "steps[1].inputs.x (step \"b\"): \"cutt.crops\": there is no step \"cutt\" before it; there are: cut",
            ),
            (
                steps(r#", {"model": "b", "inputs": {"x": "b.y"}}"#),
                "steps[1].inputs.x (step \"b\"): \"b.y\": there is no step \"b\" before it; there are: cut",
            ),
            (steps(r#", {"model": "b", "inputs": {}, "input": {}}"#), "unknown field `input`"),
            (
                r#"{"steps": [{"model": "a", "inputs": {}}], "outputs": [{"name": "y", "from": "x"}]}"#.to_owned(),
                "outputs[0].from: \"x\" is no step's output, as in \"a.OUTPUT\"",
            ),
            (
                r#"{"steps": [{"model": "a", "inputs": {}}], "outputs": [{"name": "y", "from": "b.y"}]}"#.to_owned(),
                "outputs[0].from: \"b.y\": there is no step \"b\"; there are: a",
            ),
            (
                r#"{"parameters": {"independent_rows": true}}"#.to_owned(),
                "parameters.independent_rows: rows are remembered by a pipeline's steps",
            ),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.starts_with("model-settings.json: ") && error.contains(words), "{json}: {error}");
        }
    }
}
