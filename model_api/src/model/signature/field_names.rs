//! Field names in errors: MLServer's for `model-settings.json`, Triton's for `config.pbtxt`.

use open_inference::TensorMetadata;

use crate::repository::model_settings::{TensorParameters, TensorSettings};
use crate::repository::triton_config::Tensor;

/// The file that contains a setting, which decides the name of its field.
#[derive(Clone, Copy)]
pub enum SettingsFile {
    /// `model-settings.json`.
    Settings,
    /// `config.pbtxt`.
    Triton,
}

impl SettingsFile {
    /// File name and field of `inputs[index]` or `outputs[index]`, for an error.
    pub fn field(self, side: &str, index: usize, field: &str) -> String {
        let field = match self {
            Self::Settings => return format!("model-settings.json: {side}[{index}].{field}"),
            Self::Triton => match field {
                "datatype" => "data_type".to_owned(),
                "shape" => "dims".to_owned(),
                other => other.replace("parameters.labels", "label_filename"),
            },
        };
        format!("config.pbtxt: {}[{index}].{field}", side.trim_end_matches('s'))
    }
}

/// Tensor settings from Triton's configuration. A length that is open there has the graph's length, as in Triton.
pub fn settings_from_triton(tensors: &[Tensor], graph: &[TensorMetadata]) -> Vec<TensorSettings> {
    let settings = |tensor: &Tensor| {
        let found = graph.iter().find(|found| found.name == tensor.name);
        let shape = tensor.shape.as_ref().map(|shape| match found {
            Some(found) if found.shape.len() == shape.len() => {
                let length = |(&declared, &found): (&i64, &i64)| if declared == -1 { found } else { declared };
                shape.iter().zip(&found.shape).map(length).collect()
            }
            _ => shape.clone(),
        });
        TensorSettings {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape,
            from: None,
            parameters: TensorParameters { labels: tensor.labels.clone(), ..TensorParameters::default() },
        }
    };
    tensors.iter().map(settings).collect()
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    #[test]
    fn an_open_length_in_tritons_file_has_the_graphs_length() {
        let tensor = Tensor { name: "x".to_owned(), shape: Some(vec![-1, -1, 5]), ..Tensor::default() };
        let graph = [TensorMetadata::new("x", Datatype::Fp32, &[1, 3, -1])];
        assert_eq!(settings_from_triton(&[tensor], &graph)[0].shape, Some(vec![1, 3, 5]));
    }

    #[test]
    fn a_field_has_the_name_that_its_file_uses() {
        assert_eq!(SettingsFile::Settings.field("inputs", 0, "shape"), "model-settings.json: inputs[0].shape");
        assert_eq!(SettingsFile::Triton.field("outputs", 1, "datatype"), "config.pbtxt: output[1].data_type");
        assert_eq!(
            SettingsFile::Triton.field("outputs", 0, "parameters.labels: x"),
            "config.pbtxt: output[0].label_filename: x"
        );
    }
}
