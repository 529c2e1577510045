//! Request and response parameters: a map of booleans, numbers and strings.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// `parameters` of a request, a response, or a tensor.
pub type Parameters = BTreeMap<String, Parameter>;

/// Value of a parameter. Both JSON and gRPC can represent it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "documented by the names")]
pub enum Parameter {
    Bool(bool),
    Int(i64),
    /// Greater than `i64::MAX`.
    Uint(u64),
    Double(f64),
    String(String),
}

/// Maximum number of parameters in one JSON object. A few bytes of JSON become more than a hundred bytes in memory.
const MAX_PARAMETERS: usize = 64;

impl Parameter {
    /// The value of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// The value of a non-negative integer.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Int(number) => number.try_into().ok(),
            Self::Uint(number) => Some(number),
            _ => None,
        }
    }

    /// The value of a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Int(number) => Some(number as f64),
            Self::Uint(number) => Some(number as f64),
            Self::Double(number) => Some(number),
            _ => None,
        }
    }
}

impl From<&str> for Parameter {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

/// Deserializes `parameters`. Lists, objects and `null` are ignored: MLServer, for example, sends the headers of its
/// caller as an object.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Parameters, D::Error> {
    struct ParametersVisitor;
    impl<'de> Visitor<'de> for ParametersVisitor {
        type Value = Parameters;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object of parameters")
        }

        fn visit_unit<E>(self) -> Result<Parameters, E> {
            Ok(Parameters::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
            let mut parameters = Parameters::new();
            while let Some(name) = map.next_key::<String>()? {
                if parameters.len() == MAX_PARAMETERS {
                    return Err(serde::de::Error::custom(format_args!(
                        "there are more than {MAX_PARAMETERS} parameters"
                    )));
                }
                if let Some(value) = map.next_value_seed(ValueVisitor)? {
                    parameters.insert(name, value);
                }
            }
            Ok(parameters)
        }
    }
    deserializer.deserialize_any(ParametersVisitor)
}

/// Deserializes one value, or `None` where its type is ignored.
struct ValueVisitor;

impl<'de> DeserializeSeed<'de> for ValueVisitor {
    type Value = Option<Parameter>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Option<Parameter>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a parameter's value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Bool(value)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Int(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(i64::try_from(number).map_or(Parameter::Uint(number), Parameter::Int)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Double(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Parameter::String(text.to_owned())))
    }

    // Skipped without recursion, so that deep nesting cannot overflow the stack.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ValueVisitor
            .deserialize(deserializer)?
            .ok_or_else(|| serde::de::Error::custom("a parameter is a boolean, a number or a string"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Parameters, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        deserialize(&mut deserializer).map_err(|error| error.to_string())
    }

    #[test]
    fn values_keep_their_type_and_other_types_are_ignored() {
        let json = r#"{"a": true, "b": -1, "c": 18446744073709551615, "d": 1.5, "e": "x", "headers": {"h": [1]}, "n": null, "l": []}"#;
        let parameters = read(json).unwrap();
        assert_eq!(
            serde_json::to_string(&parameters).unwrap(),
            r#"{"a":true,"b":-1,"c":18446744073709551615,"d":1.5,"e":"x"}"#
        );
        assert_eq!(read("null").unwrap(), Parameters::new());
    }

    #[test]
    fn deep_nesting_is_skipped_and_a_list_is_rejected() {
        let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(&deep).unwrap(), Parameters::new());
        assert!(read("[1]").unwrap_err().contains("expected an object of parameters"));
    }
}
