//! Operators on `[batch, channels, …]`: convolutions, pooling, and others that treat each image alone.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Rows, Value};
use super::matmul::parameters;

/// A convolution of the input at the first place with the kernel at the second.
pub fn convolution<'g>(call: &mut Call<'_, 'g, '_>, data: usize, kernel: usize) -> Values<'g> {
    let value = convolved(call, data, kernel);
    call.all(value)
}

fn convolved<'g>(call: &mut Call<'_, 'g, '_>, data: usize, kernel: usize) -> Value<'g> {
    if let Some(value) = parameters(call, &[data]) {
        return value;
    }
    let shapes = call.input(data).and_then(|data| data.shape.clone());
    let kernel = call.input(kernel).and_then(|kernel| kernel.shape.clone());
    let (Some(shape), Some(kernel)) = (shapes, kernel) else { return call.not_followed() };
    if shape.len() != kernel.len() || shape.len() < 3 {
        return call.not_followed();
    }
    let transposes = call.node.op_type == "ConvTranspose";
    let channels = if transposes {
        kernel[1].times(&Dim::number(call.int_or("group", 1))).unwrap_or_else(|| call.fresh())
    } else {
        kernel[0].clone()
    };
    let mut result = vec![shape[0].clone(), channels];
    for axis in 2..shape.len() {
        let length = if transposes { call.fresh() } else { window_length(call, &shape[axis], axis - 2, &kernel[axis]) };
        result.push(length);
    }
    let place = call.input(data).and_then(|data| data.place().cloned());
    match place {
        None => Value::new(Rows::Free, Some(result)),
        Some(place) if place.axis == 0 => call.each(place, result),
        Some(place) if place.axis == 1 && call.int_or("group", 1) == 1 => call.coupled("sums over the batch axis"),
        Some(place) if place.axis > 1 && !kernel[place.axis].is(1) => call.coupled("slides over the batch axis"),
        Some(_) => call.not_followed(),
    }
}

/// `MaxPool`, `AveragePool`, `LpPool`.
pub fn pool<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    let (Some(place), Some(shape)) = (data.place().cloned(), data.shape) else { return call.all(call.not_followed()) };
    if call.inputs.iter().skip(1).flatten().any(|value| !value.is_free()) {
        return call.all(call.not_followed());
    }
    if place.axis > 1 {
        return call.all(call.coupled("slides over the batch axis"));
    }
    let mut result = shape[..2].to_vec();
    for (axis, length) in shape.iter().enumerate().skip(2) {
        let size = call.ints("kernel_shape").and_then(|sizes| sizes.get(axis - 2).copied());
        let length = match size {
            Some(size) => window_length(call, length, axis - 2, &Dim::number(size)),
            None => call.fresh(),
        };
        result.push(length);
    }
    let value = call.each(place.clone(), result);
    let mut values = vec![value; call.node.output.len()];
    // The second result of MaxPool holds places in the whole tensor.
    if let Some(places) = values.get_mut(1) {
        places.rows = Rows::Numbered(place, call.reason("gives places in the whole batch"));
    }
    values
}

/// How many places a window has along an axis.
fn window_length(call: &mut Call, length: &Dim, axis: usize, size: &Dim) -> Dim {
    let get = |name: &str, place: usize, default: i64| {
        call.ints(name).filter(|ints| !ints.is_empty()).map_or(Some(default), |ints| ints.get(place).copied())
    };
    let spatial = call.ints("pads").map_or(0, |pads| pads.len() / 2);
    let (Some(stride), Some(dilation), Some(before), Some(after)) =
        (get("strides", axis, 1), get("dilations", axis, 1), get("pads", axis, 0), get("pads", axis + spatial, 0))
    else {
        return call.fresh();
    };
    let auto = call.text("auto_pad").unwrap_or("NOTSET").to_owned();
    let ceil = call.flag("ceil_mode");
    let same = auto.starts_with("SAME");
    let computed = length.as_number().zip(size.as_number()).and_then(|(length, size)| {
        if stride < 1 || length < 0 || size < 1 {
            return None;
        }
        if same {
            return length.checked_add(stride - 1).map(|length| length / stride);
        }
        let pads = if auto == "VALID" { 0 } else { before.checked_add(after)? };
        let window = size.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let room = length.checked_add(pads)?.checked_sub(window).filter(|&room| room >= 0)?;
        // The last window may begin in the padding with ceil_mode, or not: not followed.
        (!ceil || room % stride == 0).then_some(room / stride + 1)
    });
    if let Some(length) = computed {
        return Dim::number(length);
    }
    if same && stride == 1 {
        return length.clone();
    }
    let plain = size.as_number().is_some_and(|size| {
        size.checked_sub(1).and_then(|size| size.checked_mul(dilation)) == before.checked_add(after)
    });
    if stride == 1 && plain && auto == "NOTSET" {
        return length.clone();
    }
    let mode = Dim::number(i64::from(ceil) + 2 * i64::from(same) + 4 * i64::from(auto == "VALID"));
    let numbers = [stride, dilation, before, after].map(Dim::number);
    let [stride, dilation, before, after] = &numbers;
    call.walk.symbols.computed("window", &[length, size, stride, dilation, before, after, &mode])
}

/// `GlobalAveragePool` and the like: each channel of each image becomes one element.
pub fn global<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let (Some(place), Some(shape)) = (data.place().cloned(), data.shape) else { return call.not_followed() };
    if place.axis > 1 {
        return call.coupled("pools over the batch axis");
    }
    let shape = shape.into_iter().enumerate().map(|(axis, dim)| if axis < 2 { dim } else { Dim::number(1) });
    call.each(place, shape.collect())
}

/// Operators on images of `[batch, …]` whose results have as many axes. The inputs at these places hold one image for each
/// row, and all others are the same for all of them.
pub fn images<'g>(call: &mut Call<'_, 'g, '_>, of_rows: &[usize], axes: usize) -> Values<'g> {
    let rest: Vec<Dim> = (1..axes).map(|_| call.fresh()).collect();
    let value = if have_rows(call, of_rows) {
        leading(call, |batch| std::iter::once(batch).chain(rest).collect())
    } else {
        call.not_followed()
    };
    call.all(value)
}

/// Whether the inputs at these places, where they are given, hold rows, and no other input does.
pub fn have_rows(call: &Call, places: &[usize]) -> bool {
    let fits = |(place, value): (usize, &Option<Value>)| {
        value.as_ref().is_none_or(|value| value.is_free() != places.contains(&place))
    };
    call.inputs.iter().enumerate().all(fits)
}

/// The result of an operator that treats each row of all its inputs alone, which hold them on their first axis.
pub fn leading<'g>(call: &Call<'_, 'g, '_>, shape: impl FnOnce(Dim) -> Vec<Dim>) -> Value<'g> {
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    let mut places = call.given().filter(|value| !value.is_free()).map(Value::place);
    let Some(place) = places.next().flatten().filter(|place| place.axis == 0) else {
        return call.unknown("does not have the batch on the first axis of its inputs");
    };
    if places.any(|other| other != Some(place)) {
        return call.unknown("does not have the batch on the first axis of its inputs");
    }
    match place.length() {
        Some(length) => call.each(Place { axis: 0, ..place.clone() }, shape(length)),
        None => call.not_followed(),
    }
}

/// `DepthToSpace` and `SpaceToDepth`.
pub fn blocks<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let size = Dim::number(call.int_or("blocksize", 1));
    let shape = call.input(0).and_then(|data| data.shape.clone()).filter(|shape| shape.len() == 4);
    let Some(shape) = shape else { return call.not_followed() };
    let symbols = &mut call.walk.symbols;
    let square = symbols.times(&size, &size);
    let (channels, height, width) = if call.node.op_type == "DepthToSpace" {
        (symbols.quotient(&shape[1], &square), symbols.times(&shape[2], &size), symbols.times(&shape[3], &size))
    } else {
        (symbols.times(&shape[1], &square), symbols.quotient(&shape[2], &size), symbols.quotient(&shape[3], &size))
    };
    leading(call, |batch| vec![batch, channels, height, width])
}
