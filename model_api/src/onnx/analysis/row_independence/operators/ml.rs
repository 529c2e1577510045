//! Operators of `ai.onnx.ml` and text operators, which process each row of `[batch, features]` by itself.

use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, Value};

pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let value = match ctx.node.op_type.as_str() {
        "LabelEncoder" | "CategoryMapper" | "Binarizer" => return super::elementwise::evaluate(ctx),
        "Scaler" | "Normalizer" | "Imputer" => same_shape(ctx),
        "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" => return classifier(ctx),
        "TreeEnsembleRegressor" | "LinearRegressor" | "SVMRegressor" | "TreeEnsemble" => {
            let targets = ctx.int("n_targets").or_else(|| ctx.int("targets")).unwrap_or(1);
            table(ctx, Dim::number(targets))
        }
        "FeatureVectorizer" => {
            let features = ctx.ints("inputdimensions").unwrap_or_default();
            let features = features.iter().fold(0_i64, |sum, &count| sum.saturating_add(count));
            table(ctx, Dim::number(features))
        }
        "OneHotEncoder" => one_hot(ctx),
        "ArrayFeatureExtractor" => extract(ctx),
        _ => ctx.unsupported(),
    };
    ctx.for_all_outputs(value)
}

/// The result for tables of `[batch, features]`, with `features` columns. A vector counts as a single row.
pub fn table<'g>(ctx: &NodeContext<'_, 'g, '_>, features: Dim) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    if ctx.present_inputs().any(|value| value.rank() != Some(2)) {
        let are_vectors = ctx.present_inputs().all(|value| value.rank() == Some(1));
        return if are_vectors {
            ctx.coupled("reads the batch axis as the features of one row")
        } else {
            ctx.unknown("has an input that is not a table")
        };
    }
    let keeps_features_apart = matches!(ctx.node.op_type.as_str(), "Scaler" | "Imputer");
    if !keeps_features_apart
        && ctx.present_inputs().any(|value| value.batch_axis().is_some_and(|batch_axis| batch_axis.axis == 1))
    {
        return ctx.coupled("reads the batch axis as the features of one row");
    }
    if ctx.present_inputs().any(|value| value.batch_axis().is_none_or(|batch_axis| batch_axis.axis != 0)) {
        return ctx.unknown("does not have the batch on the first axis of its inputs");
    }
    super::window::batch_first(ctx, |batch| vec![batch, features])
}

fn same_shape<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Value<'g> {
    let features = ctx.input(0).and_then(|data| data.shape.as_ref()?.get(1).cloned());
    match features {
        Some(features) => table(ctx, features),
        None => table(ctx, Dim::number(1)),
    }
}

/// Classifiers: labels and scores.
fn classifier<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let names = ["classlabels_int64s", "classlabels_ints", "classlabels_strings"];
    let attributes = names.iter().filter_map(|name| ctx.attribute(name));
    let count = attributes.map(|labels| labels.ints.len().max(labels.strings.len())).max().unwrap_or(0);
    let classes = if count < 2 { ctx.fresh_dim() } else { Dim::number(i64::try_from(count).unwrap_or(0)) };
    let scores = table(ctx, classes);
    let mut labels = scores.clone();
    if let Some(shape) = &mut labels.shape {
        shape.truncate(1);
    }
    vec![labels, scores]
}

/// `OneHotEncoder`: adds an axis of categories.
fn one_hot<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let (Some(batch_axis), Some(mut shape)) = (data.batch_axis().cloned(), data.shape) else {
        return ctx.unsupported();
    };
    let count = ["cats_int64s", "cats_strings"].iter().filter_map(|name| ctx.attribute(name));
    let count = count.map(|categories| categories.ints.len().max(categories.strings.len())).max().unwrap_or(0);
    shape.push(Dim::number(i64::try_from(count).unwrap_or(0)));
    ctx.per_row(batch_axis, shape)
}

/// `ArrayFeatureExtractor`: selects elements of the last axis by index. The result of a vector has one row.
fn extract<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return match dependence {
            BatchDependence::Permuted(_) | BatchDependence::Selected(_) => ctx.unknown("may restore the order of rows"),
            dependence => Value::new(dependence, None),
        };
    }
    let (Some(data), Some(indices)) = (ctx.input(0).cloned(), ctx.input(1).cloned()) else {
        return ctx.unknown("has no inputs");
    };
    let (Some(mut shape), Some(chosen)) = (data.shape.clone(), indices.shape.as_ref().and_then(Dim::product)) else {
        return ctx.unsupported();
    };
    let Some(last) = shape.len().checked_sub(1) else { return ctx.unsupported() };
    if shape.len() == 1 {
        shape.insert(0, Dim::number(1));
    }
    let axis = shape.len() - 1;
    shape[axis] = chosen;
    match (data.batch_axis(), indices.batch_axis()) {
        (Some(batch_axis), None) if batch_axis.axis == last => ctx.permuted("selects rows by index"),
        (Some(batch_axis), None) => ctx.per_row(batch_axis.clone(), shape),
        (None, Some(batch_axis)) if shape[..axis].iter().all(|dim| dim.is(1)) => {
            let old = indices.shape.as_deref().unwrap_or_default();
            let (before, after) = (Dim::product(&old[..batch_axis.axis]), Dim::product(&old[batch_axis.axis + 1..]));
            let outer = before.and_then(|before| before.times(&batch_axis.outer));
            let inner = after.and_then(|after| after.times(&batch_axis.inner));
            match outer.zip(inner) {
                Some((outer, inner)) => ctx.per_row(BatchAxis { axis, outer, inner }, shape),
                None => ctx.unsupported(),
            }
        }
        _ => ctx.unsupported(),
    }
}

/// `StringNormalizer` and `TfIdfVectorizer`.
pub fn text<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let value = if ctx.node.op_type == "TfIdfVectorizer" {
        let features = ctx.ints("ngram_indexes").and_then(|indexes| indexes.iter().max().copied());
        let features = features.and_then(|last| last.checked_add(1)).map(Dim::number);
        let features = features.unwrap_or_else(|| ctx.fresh_dim());
        table(ctx, features)
    } else if ctx.attribute("stopwords").is_some_and(|words| !words.strings.is_empty()) {
        ctx.selected("removes words from the whole batch")
    } else {
        match (data.batch_axis(), data.shape.as_deref()) {
            (Some(batch_axis), Some([_])) => ctx.per_row(batch_axis.clone(), data.shape.clone().unwrap_or_default()),
            _ => ctx.unsupported(),
        }
    };
    ctx.for_all_outputs(value)
}
