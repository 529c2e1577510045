//! An answer in few bytes, as it is held near and, between a head and a checksum, in Redis: when it was stored, what it took, who
//! answered, and each output's name, datatype, shape and raw bytes. Numbers are little-endian; a text has its length (u16)
//! before it.
//!
//! A fixed form, not a serialised Rust type: nothing in it chooses what is built from it, and what comes back is held
//! against every length before it is believed.

use bytes::Bytes;
use http::HeaderMap;
use open_inference::{Datatype, Inference, MAX_RANK, Provenance, Tensor, Timing};

/// `None` for an answer whose names or number of outputs no model has.
pub(crate) fn write(stored_at: u64, inference: &Inference) -> Option<Vec<u8>> {
    let Inference { model, version, outputs, provenance, .. } = inference;
    let Provenance { model_digest, device, timing_ms } = provenance;
    let size = |output: &Tensor| 32 + output.name.len() + 8 * output.shape.len() + output.data.len();
    let mut form = Vec::with_capacity(160 + outputs.iter().map(size).sum::<usize>());
    form.extend(stored_at.to_le_bytes());
    for millis in [timing_ms.decode, timing_ms.queue, timing_ms.infer] {
        form.extend(millis.to_le_bytes());
    }
    for text in [model, version, model_digest, device] {
        write_text(&mut form, text)?;
    }
    form.extend(u16::try_from(outputs.len()).ok()?.to_le_bytes());
    for Tensor { name, datatype, shape, data } in outputs {
        write_text(&mut form, name)?;
        let datatype = Datatype::ALL.iter().position(|known| known == datatype)?;
        form.extend([datatype as u8, u8::try_from(shape.len()).ok()?]);
        for &length in shape {
            form.extend((length as u64).to_le_bytes());
        }
        form.extend((data.len() as u64).to_le_bytes());
        form.extend_from_slice(data);
    }
    Some(form)
}

/// When it was stored, and the answer; its outputs are slices of the form. `None` for what is no such form.
pub(crate) fn read(form: &Bytes) -> Option<(u64, Inference)> {
    let mut rest = Rest(form);
    let stored_at = rest.number()?;
    let mut millis = || Some(f64::from_le_bytes(*rest.array()?));
    let timing_ms = Timing { decode: millis()?, queue: millis()?, infer: millis()? };
    let (model, version) = (rest.text()?.to_owned(), rest.text()?.to_owned());
    let provenance = Provenance { model_digest: rest.text()?.to_owned(), device: rest.text()?.to_owned(), timing_ms };
    let count = u16::from_le_bytes(*rest.array()?);
    let mut outputs = Vec::new();
    for _ in 0..count {
        outputs.push(rest.output(form)?);
    }
    let inference = Inference { model, version, outputs, provenance, headers: HeaderMap::new() };
    rest.0.is_empty().then_some((stored_at, inference))
}

/// Whose answer it is; `None` for what is no such form.
pub(crate) fn model(form: &[u8]) -> Option<&str> {
    let mut rest = Rest(form);
    rest.take(4 * size_of::<u64>())?;
    rest.text()
}

fn write_text(form: &mut Vec<u8>, text: &str) -> Option<()> {
    form.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
    form.extend_from_slice(text.as_bytes());
    Some(())
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
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
        std::str::from_utf8(self.take(length.into())?).ok()
    }

    fn output(&mut self, form: &Bytes) -> Option<Tensor> {
        let name = self.text()?;
        let &[datatype, rank] = self.array()?;
        let datatype = *Datatype::ALL.get(usize::from(datatype))?;
        let mut shape = [0; MAX_RANK];
        let shape = shape.get_mut(..rank.into())?;
        for length in &mut *shape {
            *length = i64::try_from(self.number()?).ok()?;
        }
        let length = usize::try_from(self.number()?).ok()?;
        let data = form.slice_ref(self.take(length)?);
        Tensor::new(name, datatype, shape, data).ok()
    }
}
