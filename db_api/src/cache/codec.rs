//! Binary codec of a cached result, used in the local cache and, between a header and a checksum, in Redis.
//!
//! Layout: time of storage, timings, model, version, digest and device, then each output's name, datatype, shape and raw bytes.
//! Numbers are little-endian; a text follows its length (u16).
//!
//! The layout is fixed instead of a serialised Rust type: the bytes cannot choose which types are built, and every length is checked
//! before it is used.

use bytes::Bytes;
use http::HeaderMap;
use open_inference::{Datatype, Inference, MAX_RANK, Provenance, Tensor, Timing};

/// `None` for a result whose texts or number of outputs exceed the format's 16-bit lengths.
pub(super) fn encode(stored_at: u64, inference: &Inference) -> Option<Vec<u8>> {
    let Inference { model, version, outputs, provenance, .. } = inference;
    let Provenance { model_digest, device, timing_ms } = provenance;
    let size = |output: &Tensor| 32 + output.name.len() + 8 * output.shape.len() + output.data.len();
    let mut encoded = Vec::with_capacity(160 + outputs.iter().map(size).sum::<usize>());
    encoded.extend(stored_at.to_le_bytes());
    for millis in [timing_ms.decode, timing_ms.queue, timing_ms.infer] {
        encoded.extend(millis.to_le_bytes());
    }
    for text in [model, version, model_digest, device] {
        write_text(&mut encoded, text)?;
    }
    encoded.extend(u16::try_from(outputs.len()).ok()?.to_le_bytes());
    for Tensor { name, datatype, shape, data } in outputs {
        write_text(&mut encoded, name)?;
        let datatype = Datatype::ALL.iter().position(|each| each == datatype)?;
        encoded.extend([datatype as u8, u8::try_from(shape.len()).ok()?]);
        for &length in shape {
            encoded.extend((length as u64).to_le_bytes());
        }
        encoded.extend((data.len() as u64).to_le_bytes());
        encoded.extend_from_slice(data);
    }
    Some(encoded)
}

/// Returns when the result was stored, and the result. Its outputs are slices of `encoded`. `None` for malformed bytes.
pub(super) fn decode(encoded: &Bytes) -> Option<(u64, Inference)> {
    let mut reader = Reader(encoded);
    let stored_at = reader.number()?;
    let mut millis = || Some(f64::from_le_bytes(*reader.array()?));
    let timing_ms = Timing { decode: millis()?, queue: millis()?, infer: millis()? };
    let (model, version) = (reader.text()?.to_owned(), reader.text()?.to_owned());
    let provenance =
        Provenance { model_digest: reader.text()?.to_owned(), device: reader.text()?.to_owned(), timing_ms };
    let count = u16::from_le_bytes(*reader.array()?);
    let mut outputs = Vec::new();
    for _ in 0..count {
        outputs.push(reader.output(encoded)?);
    }
    let inference = Inference { model, version, outputs, provenance, headers: HeaderMap::new() };
    reader.0.is_empty().then_some((stored_at, inference))
}

/// The model of an encoded result; `None` for malformed bytes.
pub(super) fn model_of(encoded: &[u8]) -> Option<&str> {
    let mut reader = Reader(encoded);
    reader.read(4 * size_of::<u64>())?;
    reader.text()
}

fn write_text(encoded: &mut Vec<u8>, text: &str) -> Option<()> {
    encoded.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
    encoded.extend_from_slice(text.as_bytes());
    Some(())
}

/// The bytes that are not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn read(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.array()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(*self.array()?);
        std::str::from_utf8(self.read(length.into())?).ok()
    }

    fn output(&mut self, encoded: &Bytes) -> Option<Tensor> {
        let name = self.text()?;
        let &[datatype, rank] = self.array()?;
        let datatype = *Datatype::ALL.get(usize::from(datatype))?;
        let mut shape = [0; MAX_RANK];
        let shape = shape.get_mut(..rank.into())?;
        for length in &mut *shape {
            *length = i64::try_from(self.number()?).ok()?;
        }
        let length = usize::try_from(self.number()?).ok()?;
        let data = encoded.slice_ref(self.read(length)?);
        Tensor::new(name, datatype, shape, data).ok()
    }
}
