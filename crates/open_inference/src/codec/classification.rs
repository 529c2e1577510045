//! Triton's classification extension: the top classes of each row.

use std::cmp::Ordering;

use crate::types::{Tensor, TensorMetadata};
use crate::with_element;

/// The best `count` classes of each row in Triton's format, `value:index` or `value:index:label`, in descending order.
///
/// A row is a step along the first axis. A tensor with fewer than two axes is one row.
pub(crate) fn top_k(tensor: &Tensor, count: usize, output: &TensorMetadata) -> Tensor {
    let (rows, mut shape) = match tensor.shape[..] {
        [rows, _, ..] => (rows, vec![rows]),
        _ => (1, Vec::new()),
    };
    let classes = tensor.len().checked_div(rows).unwrap_or(0);
    let count = count.min(classes);
    shape.push(count);
    with_element!(tensor.datatype, T => {
        let values: Vec<T> = tensor.elements::<T>().collect();
        // `chunks` panics on zero.
        let texts = values.chunks(classes.max(1)).flat_map(|row| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            let best_first = |&a: &usize, &b: &usize| descending(&row[a], &row[b]).then(a.cmp(&b));
            if count < order.len() {
                order.select_nth_unstable_by(count - 1, best_first);
                order.truncate(count);
            }
            order.sort_unstable_by(best_first);
            order.into_iter().map(|index| class_text(&row[index].to_string(), index, output))
        });
        Tensor::from_strings(&tensor.name, shape, texts)
    }, bytes => tensor.clone())
}

fn class_text(value: &str, index: usize, output: &TensorMetadata) -> String {
    match output.parameters.labels.get(index) {
        Some(label) => format!("{value}:{index}:{label}"),
        None => format!("{value}:{index}"),
    }
}

/// Descending order, with NaN last.
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn descending<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    b.partial_cmp(a).unwrap_or_else(|| (a != a).cmp(&(b != b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Datatype;

    fn top_k_of(
        datatype: Datatype,
        shape: Vec<usize>,
        values: &[f32],
        count: usize,
        labels: &[&str],
    ) -> (Vec<usize>, Vec<String>) {
        let mut output = TensorMetadata::new("y", datatype, &[]);
        output.parameters.labels = labels.iter().map(ToString::to_string).collect();
        let tensor = Tensor::from_f32("y", datatype, shape, values).unwrap();
        let best = top_k(&tensor, count, &output);
        let texts = best.strings().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        (best.shape, texts)
    }

    #[test]
    fn top_classes_of_each_row_are_sorted_and_labelled() {
        let (shape, texts) =
            top_k_of(Datatype::Fp32, vec![2, 3], &[0.1, 0.7, 0.2, 0.5, 0.25, 0.25], 2, &["cat", "dog"]);
        assert_eq!(shape, [2, 2]);
        assert_eq!(texts, ["0.7:1:dog", "0.2:2", "0.5:0:cat", "0.25:1:dog"]);
    }

    #[test]
    fn a_larger_count_returns_all_classes_with_nan_last() {
        let (shape, texts) = top_k_of(Datatype::Fp16, vec![3], &[f32::NAN, 1.0, 2.0], 9, &[]);
        assert_eq!((shape, texts), (vec![3], vec!["2:2".to_owned(), "1:1".to_owned(), "NaN:0".to_owned()]));
        assert_eq!(top_k_of(Datatype::Int8, vec![], &[7.0], 1, &[]), (vec![1], vec!["7:0".to_owned()]));
        assert_eq!(top_k_of(Datatype::Int8, vec![0, 3], &[], 1, &[]), (vec![0, 0], vec![]));
    }
}
