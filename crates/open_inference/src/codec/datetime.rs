//! Datetime codec: ISO 8601 text to and from seconds since 1970.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::strings::map_strings;
use crate::error::Error;
use crate::types::{Datatype, Tensor};

const EXPECTED: &str = "a date in ISO 8601, such as 2024-05-17T12:30:00Z";

/// Decodes ISO 8601 text into the model's datatype: text, or seconds since 1970 as `INT64` or `FP64`. A date without an
/// offset is UTC.
pub(crate) fn decode(tensor: Tensor, datatype: Datatype) -> Result<Tensor, Error> {
    let timestamps = map_strings(&tensor, EXPECTED, parse)?;
    let data: Vec<u8> = match datatype {
        Datatype::Int64 => timestamps.iter().flat_map(|timestamp| timestamp.as_second().to_le_bytes()).collect(),
        Datatype::Fp64 => timestamps.iter().flat_map(|timestamp| seconds(*timestamp).to_le_bytes()).collect(),
        _ => return Ok(tensor),
    };
    Ok(Tensor { datatype, data: data.into(), ..tensor })
}

/// Encodes seconds since 1970 as text. Text passes unchanged.
pub(crate) fn encode(tensor: &Tensor) -> Result<Tensor, Error> {
    let timestamps: Vec<Option<Timestamp>> = match tensor.datatype {
        Datatype::Int64 => tensor.elements().map(|seconds| Timestamp::from_second(seconds).ok()).collect(),
        // An `f64` has microsecond precision for current dates.
        Datatype::Fp64 => tensor.elements::<f64>().map(from_seconds).collect(),
        _ => return Ok(tensor.clone()),
    };
    let message = |element| format!("element {element} of output {:?} is outside the range of dates", tensor.name);
    let texts: Result<Vec<String>, Error> = timestamps
        .iter()
        .enumerate()
        .map(|(element, timestamp)| {
            timestamp.map(|timestamp| timestamp.to_string()).ok_or_else(|| Error::unprocessable(message(element)))
        })
        .collect();
    Ok(Tensor::from_strings(&tensor.name, tensor.shape.clone(), texts?.iter().map(String::as_bytes)))
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let in_utc = |timestamp: DateTime| timestamp.to_zoned(TimeZone::UTC).ok().map(|timestamp| timestamp.timestamp());
    text.parse().ok().or_else(|| in_utc(text.parse().ok()?))
}

fn seconds(timestamp: Timestamp) -> f64 {
    timestamp.as_microsecond() as f64 / 1e6
}

fn from_seconds(seconds: f64) -> Option<Timestamp> {
    let micros = (seconds * 1e6).round();
    // NaN would be cast to 0, which is a valid date.
    micros.is_finite().then(|| Timestamp::from_microsecond(micros as i64).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Tensor {
        Tensor::from_strings("t", vec![texts.len()], texts.iter().map(|text| text.as_bytes()))
    }

    #[test]
    fn dates_round_trip_through_seconds() {
        let timestamps =
            texts(&["2024-05-17T12:30:00Z", "2024-05-17T14:30:00+02:00", "2024-05-17 12:30:00", "1969-12-31"]);
        let seconds = decode(timestamps, Datatype::Int64).unwrap();
        assert_eq!(
            seconds.elements::<i64>().collect::<Vec<_>>(),
            [1_715_949_000, 1_715_949_000, 1_715_949_000, -86_400]
        );
        let back = ["2024-05-17T12:30:00Z"; 3].into_iter().chain(["1969-12-31T00:00:00Z"]).collect::<Vec<_>>();
        assert_eq!(encode(&seconds).unwrap(), texts(&back));
        let half = decode(texts(&["1970-01-01T00:00:01.5Z"]), Datatype::Fp64).unwrap();
        assert_eq!(half.elements::<f64>().collect::<Vec<_>>(), [1.5]);
        assert_eq!(encode(&half).unwrap(), texts(&["1970-01-01T00:00:01.5Z"]));
    }

    #[test]
    fn invalid_dates_are_rejected_with_their_index() {
        let error = decode(texts(&["2024-05-17", "soon"]), Datatype::Bytes).unwrap_err();
        assert_eq!(error.message, format!("input \"t\": element 1 is not {EXPECTED}"));
        let never = Tensor::from_f32("t", Datatype::Fp64, vec![1], &[f32::NAN]).unwrap();
        assert_eq!(encode(&never).unwrap_err().message, "element 0 of output \"t\" is outside the range of dates");
    }
}
