//! Pipeline: a model whose steps are other models. It consists of settings alone.
//!
//! ```text
//! model-settings.json → PipelineDefinition (consistent in itself) → ValidatedPipeline (consistent with its steps' models)
//! ```
//!
//! Errors name the step and the field.

mod validate;

use contract::{Edge, Pipeline, Source, Step, valid_model_name};

use crate::repository::ModelFiles;
use crate::repository::digest;
use crate::repository::model_settings::{ModelSettings, StepSettings};
use crate::repository::read_error::read_settings_file;
pub use validate::{StepModel, ValidatedPipeline};

/// Settings of a pipeline, consistent in themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineDefinition {
    /// Its files; only the settings file is present.
    pub files: ModelFiles,
    /// The settings.
    pub settings: ModelSettings,
    /// The steps, and the outputs that the settings name, if any.
    pub pipeline: Pipeline,
}

impl PipelineDefinition {
    /// Reads and validates the settings.
    pub fn read(files: &ModelFiles) -> Result<Self, String> {
        let json = files.settings.as_deref().map(read_settings_file).transpose()?;
        let json = json.ok_or("there is no model-settings.json")?;
        Self::new(files, &json)
    }

    fn new(files: &ModelFiles, json: &[u8]) -> Result<Self, String> {
        let settings = ModelSettings::from_json(json, &files.name)?;
        if settings.parameters.independent_rows == Some(true) {
            return Err(
                "model-settings.json: parameters.independent_rows: a pipeline has no row cache; set it for the models of its \
                 steps"
                    .to_owned(),
            );
        }
        let mut steps: Vec<Step> = Vec::new();
        for (index, declared) in settings.steps.iter().enumerate() {
            let step = read_step(declared, files, &steps)
                .map_err(|reason| format!("model-settings.json: steps[{index}].{reason}"))?;
            steps.push(step);
        }
        let Some(last) = steps.last() else {
            return Err("model-settings.json: steps: a pipeline has at least one step".to_owned());
        };
        let mut outputs = Vec::new();
        for (index, declared) in settings.outputs.iter().enumerate() {
            let of_last = || Source::Step { step: last.name.clone(), output: declared.name.clone() };
            let from = declared.from.clone().unwrap_or_else(of_last);
            check_output(&from, &steps)
                .map_err(|reason| format!("model-settings.json: outputs[{index}].from: {reason}"))?;
            outputs.push(Edge { name: declared.name.clone(), from });
        }
        let pipeline = Pipeline { settings_digest: digest::compute_for_settings(json), steps, outputs };
        Ok(Self { files: files.clone(), settings, pipeline })
    }
}

/// Validates one step. The error begins with the field's name.
fn read_step(declared: &StepSettings, files: &ModelFiles, before: &[Step]) -> Result<Step, String> {
    let StepSettings { name, model, version, inputs } = declared;
    let name = name.clone().unwrap_or_else(|| model.clone());
    if !valid_model_name(&name) || name.contains('.') {
        return Err(format!("name: {name:?} does not consist of letters, digits, '_' and '-'"));
    }
    if before.iter().any(|step| step.name == name) {
        return Err(format!("name: {name:?} occurs twice"));
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
        Source::Input(input) if input.is_empty() => Err("the name of an input is empty".to_owned()),
        Source::Step { step, .. } if !before.iter().any(|other| other.name == *step) => {
            Err(format!("{from}: there is no step {step:?} before it{}", available_steps(before)))
        }
        _ => Ok(()),
    }
}

fn check_output(from: &Source, steps: &[Step]) -> Result<(), String> {
    match from {
        Source::Input(_) => Err(format!("{from} is not an output of a step, such as \"{}.OUTPUT\"", steps[0].name)),
        Source::Step { step, .. } if !steps.iter().any(|other| other.name == *step) => {
            Err(format!("{from}: there is no step {step:?}{}", available_steps(steps)))
        }
        Source::Step { .. } => Ok(()),
    }
}

fn available_steps(steps: &[Step]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    format!("; available steps: {}", steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<PipelineDefinition, String> {
        let files =
            ModelFiles { name: "p".to_owned(), version: "1".to_owned(), graph: None, settings: None, triton: None };
        PipelineDefinition::new(&files, json.as_bytes())
    }

    #[test]
    fn a_step_has_its_models_name_and_the_last_step_gives_the_outputs_by_default() {
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
    fn an_inconsistency_names_the_step_and_the_field() {
        let steps = |steps: &str| format!(r#"{{"steps": [{{"model": "cut", "inputs": {{"image": "x"}}}}{steps}]}}"#);
        for (json, words) in [
            ("{}".to_owned(), "steps: a pipeline has at least one step"),
            (steps(r#", {"model": "p", "inputs": {}}"#), "steps[1].model: a pipeline cannot be a step of itself"),
            (steps(r#", {"model": "cut", "inputs": {}}"#), "steps[1].name: \"cut\" occurs twice"),
            (steps(r#", {"model": "v1.5", "inputs": {}}"#), "steps[1].name: \"v1.5\" does not consist of letters"),
            (
                steps(r#", {"model": "b", "inputs": {"x": "cutt.crops"}}"#),
                "steps[1].inputs.x (step \"b\"): \"cutt.crops\": there is no step \"cutt\" before it; available steps: cut",
            ),
            (
                steps(r#", {"model": "b", "inputs": {"x": "b.y"}}"#),
                "steps[1].inputs.x (step \"b\"): \"b.y\": there is no step \"b\" before it; available steps: cut",
            ),
            (steps(r#", {"model": "b", "inputs": {}, "input": {}}"#), "unknown field `input`"),
            (
                r#"{"steps": [{"model": "a", "inputs": {}}], "outputs": [{"name": "y", "from": "x"}]}"#.to_owned(),
                "outputs[0].from: \"x\" is not an output of a step, such as \"a.OUTPUT\"",
            ),
            (
                r#"{"steps": [{"model": "a", "inputs": {}}], "outputs": [{"name": "y", "from": "b.y"}]}"#.to_owned(),
                "outputs[0].from: \"b.y\": there is no step \"b\"; available steps: a",
            ),
            (
                r#"{"parameters": {"independent_rows": true}}"#.to_owned(),
                "parameters.independent_rows: a pipeline has no row cache",
            ),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.starts_with("model-settings.json: ") && error.contains(words), "{json}: {error}");
        }
    }
}
