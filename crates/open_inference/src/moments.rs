use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::content::each;
use crate::{Datatype, Error, Tensor};

const WORDS: &str = "a moment in ISO 8601, such as 2024-05-17T12:30:00Z";

/// Moments as text become what the model takes: text again, or seconds since 1970 in `INT64` or `FP64`. A moment without an
/// offset is meant in UTC.
pub(crate) fn read(tensor: Tensor, wanted: Datatype) -> Result<Tensor, Error> {
    let moments = each(&tensor, WORDS, parse)?;
    let data: Vec<u8> = match wanted {
        Datatype::Int64 => moments.iter().flat_map(|moment| moment.as_second().to_le_bytes()).collect(),
        Datatype::Fp64 => moments.iter().flat_map(|moment| seconds(*moment).to_le_bytes()).collect(),
        _ => return Ok(tensor),
    };
    Ok(Tensor { datatype: wanted, data: data.into(), ..tensor })
}

/// Seconds since 1970 become text; text stays.
pub(crate) fn write(tensor: &Tensor) -> Result<Tensor, Error> {
    let moments: Vec<Option<Timestamp>> = match tensor.datatype {
        Datatype::Int64 => tensor.elements().map(|seconds| Timestamp::from_second(seconds).ok()).collect(),
        // Microseconds: an f64 of today's seconds has not more than that.
        Datatype::Fp64 => tensor.elements::<f64>().map(from_seconds).collect(),
        _ => return Ok(tensor.clone()),
    };
    let words = |element| format!("element {element} of output {:?} is no moment that a calendar has", tensor.name);
    let texts: Result<Vec<String>, Error> = moments
        .iter()
        .enumerate()
        .map(|(element, moment)| {
            moment.map(|moment| moment.to_string()).ok_or_else(|| Error::unprocessable(words(element)))
        })
        .collect();
    Ok(Tensor::from_strings(&tensor.name, tensor.shape.clone(), texts?.iter().map(String::as_bytes)))
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let in_utc = |moment: DateTime| moment.to_zoned(TimeZone::UTC).ok().map(|moment| moment.timestamp());
    text.parse().ok().or_else(|| in_utc(text.parse().ok()?))
}

fn seconds(moment: Timestamp) -> f64 {
    moment.as_microsecond() as f64 / 1e6
}

fn from_seconds(seconds: f64) -> Option<Timestamp> {
    let micros = (seconds * 1e6).round();
    // A cast of NaN is 0, and that would be a date.
    micros.is_finite().then(|| Timestamp::from_microsecond(micros as i64).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Tensor {
        Tensor::from_strings("t", vec![texts.len()], texts.iter().map(|text| text.as_bytes()))
    }

    #[test]
    fn moments_become_seconds_and_come_back() {
        let moments =
            texts(&["2024-05-17T12:30:00Z", "2024-05-17T14:30:00+02:00", "2024-05-17 12:30:00", "1969-12-31"]);
        let seconds = read(moments, Datatype::Int64).unwrap();
        assert_eq!(
            seconds.elements::<i64>().collect::<Vec<_>>(),
            [1_715_949_000, 1_715_949_000, 1_715_949_000, -86_400]
        );
        let back = ["2024-05-17T12:30:00Z"; 3].into_iter().chain(["1969-12-31T00:00:00Z"]).collect::<Vec<_>>();
        assert_eq!(write(&seconds).unwrap(), texts(&back));
        let half = read(texts(&["1970-01-01T00:00:01.5Z"]), Datatype::Fp64).unwrap();
        assert_eq!(half.elements::<f64>().collect::<Vec<_>>(), [1.5]);
        assert_eq!(write(&half).unwrap(), texts(&["1970-01-01T00:00:01.5Z"]));
    }

    #[test]
    fn what_is_no_moment_is_refused_by_element() {
        let error = read(texts(&["2024-05-17", "soon"]), Datatype::Bytes).unwrap_err();
        assert_eq!(error.message, format!("input \"t\": element 1 is not {WORDS}"));
        let never = Tensor::from_f32("t", Datatype::Fp64, vec![1], &[f32::NAN]).unwrap();
        assert_eq!(write(&never).unwrap_err().message, "element 0 of output \"t\" is no moment that a calendar has");
    }
}
