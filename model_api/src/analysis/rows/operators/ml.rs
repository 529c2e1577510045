//! Operators of classical machine learning (`ai.onnx.ml`) and of text: each row of `[batch, features]` is treated alone.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Rows, Value};

pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let value = match call.node.op_type.as_str() {
        "LabelEncoder" | "CategoryMapper" | "Binarizer" => return super::elementwise::evaluate(call),
        "Scaler" | "Normalizer" | "Imputer" => same_shape(call),
        "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" => return classifier(call),
        "TreeEnsembleRegressor" | "LinearRegressor" | "SVMRegressor" | "TreeEnsemble" => {
            let targets = call.int("n_targets").or_else(|| call.int("targets")).unwrap_or(1);
            table(call, Dim::number(targets))
        }
        "FeatureVectorizer" => {
            let features = call.ints("inputdimensions").unwrap_or_default();
            let features = features.iter().fold(0_i64, |sum, &count| sum.saturating_add(count));
            table(call, Dim::number(features))
        }
        "OneHotEncoder" => one_hot(call),
        "ArrayFeatureExtractor" => extract(call),
        _ => call.not_followed(),
    };
    call.all(value)
}

/// The result for tables of `[batch, features]`, with so many features. A vector would be taken for a single row.
pub fn table<'g>(call: &Call<'_, 'g, '_>, features: Dim) -> Value<'g> {
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    if call.given().any(|value| value.rank() != Some(2)) {
        let are_vectors = call.given().all(|value| value.rank() == Some(1));
        return if are_vectors {
            call.coupled("takes the batch axis for the features of one row")
        } else {
            call.unknown("has an input that is no table")
        };
    }
    let keeps_features_apart = matches!(call.node.op_type.as_str(), "Scaler" | "Imputer");
    if !keeps_features_apart && call.given().any(|value| value.place().is_some_and(|place| place.axis == 1)) {
        return call.coupled("takes the batch axis for the features of one row");
    }
    if call.given().any(|value| value.place().is_none_or(|place| place.axis != 0)) {
        return call.unknown("does not have the batch on the first axis of its inputs");
    }
    super::window::leading(call, |batch| vec![batch, features])
}

fn same_shape<'g>(call: &Call<'_, 'g, '_>) -> Value<'g> {
    let features = call.input(0).and_then(|data| data.shape.as_ref()?.get(1).cloned());
    match features {
        Some(features) => table(call, features),
        None => table(call, Dim::number(1)),
    }
}

/// Labels and scores.
fn classifier<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let names = ["classlabels_int64s", "classlabels_ints", "classlabels_strings"];
    let attributes = names.iter().filter_map(|name| call.attribute(name));
    let count = attributes.map(|labels| labels.ints.len().max(labels.strings.len())).max().unwrap_or(0);
    let classes = if count < 2 { call.fresh() } else { Dim::number(i64::try_from(count).unwrap_or(0)) };
    let scores = table(call, classes);
    let mut labels = scores.clone();
    if let Some(shape) = &mut labels.shape {
        shape.truncate(1);
    }
    vec![labels, scores]
}

/// Adds an axis of categories.
fn one_hot<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let (Some(place), Some(mut shape)) = (data.place().cloned(), data.shape) else { return call.not_followed() };
    let count = ["cats_int64s", "cats_strings"].iter().filter_map(|name| call.attribute(name));
    let count = count.map(|categories| categories.ints.len().max(categories.strings.len())).max().unwrap_or(0);
    shape.push(Dim::number(i64::try_from(count).unwrap_or(0)));
    call.each(place, shape)
}

/// `ArrayFeatureExtractor`: elements of the last axis by index. The result of a vector has one row.
fn extract<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(rows) = call.settled() {
        return match rows {
            Rows::Moved(_) | Rows::Picked(_) => call.unknown("may put rows back to where they were"),
            rows => Value::new(rows, None),
        };
    }
    let (Some(data), Some(indices)) = (call.input(0).cloned(), call.input(1).cloned()) else {
        return call.unknown("has no inputs");
    };
    let (Some(mut shape), Some(chosen)) = (data.shape.clone(), indices.shape.as_ref().and_then(Dim::product)) else {
        return call.not_followed();
    };
    let Some(last) = shape.len().checked_sub(1) else { return call.not_followed() };
    if shape.len() == 1 {
        shape.insert(0, Dim::number(1));
    }
    let axis = shape.len() - 1;
    shape[axis] = chosen;
    match (data.place(), indices.place()) {
        (Some(place), None) if place.axis == last => call.moved("takes rows by index"),
        (Some(place), None) => call.each(place.clone(), shape),
        (None, Some(place)) if shape[..axis].iter().all(|dim| dim.is(1)) => {
            let old = indices.shape.as_deref().unwrap_or_default();
            let (before, after) = (Dim::product(&old[..place.axis]), Dim::product(&old[place.axis + 1..]));
            let outer = before.and_then(|before| before.times(&place.outer));
            let inner = after.and_then(|after| after.times(&place.inner));
            match outer.zip(inner) {
                Some((outer, inner)) => call.each(Place { axis, outer, inner }, shape),
                None => call.not_followed(),
            }
        }
        _ => call.not_followed(),
    }
}

/// `StringNormalizer` and `TfIdfVectorizer`.
pub fn text<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let value = if call.node.op_type == "TfIdfVectorizer" {
        let features = call.ints("ngram_indexes").and_then(|places| places.iter().max().copied());
        let features = features.and_then(|last| last.checked_add(1)).map(Dim::number);
        let features = features.unwrap_or_else(|| call.fresh());
        table(call, features)
    } else if call.attribute("stopwords").is_some_and(|words| !words.strings.is_empty()) {
        call.picked("removes words from the whole batch")
    } else {
        match (data.place(), data.shape.as_deref()) {
            (Some(place), Some([_])) => call.each(place.clone(), data.shape.clone().unwrap_or_default()),
            _ => call.not_followed(),
        }
    };
    call.all(value)
}
