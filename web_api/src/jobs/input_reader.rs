//! Chunked reader of a submission's inputs. Archives are unpacked entry by entry, and memory of a chunk is released once the queue has
//! it.

use std::vec;

use bytes::Bytes;
use db_api::jobs::{Input, SkippedFiles};
use serde::Deserialize;
use service::memory_budget::Reservation;

use super::request_splitter::{RequestList, RequestSplitter};
use super::unique_names::UniqueNames;
use crate::archive::file_type::{has_image_name, is_hidden, is_image, is_system_file, is_zip_based};
use crate::archive::{Archive, ArchiveEntry, ArchiveFormat, Budget, FileFilter, SubmissionLimits};
use crate::blocking_pool::BlockingPool;
use crate::error::Error;

/// Bytes of a chunk. A chunk with a single input may be larger.
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// Inputs of a chunk.
const MAX_CHUNK_INPUTS: usize = 500;

/// Maximum length of a name in characters. Longer names are truncated.
const MAX_NAME_LENGTH: usize = 200;

/// Maximum size of a name in bytes: four per character.
const MAX_NAME_BYTES: usize = 4 * MAX_NAME_LENGTH;

/// Size of an input, or of a name in use, without its text.
const INPUT_BYTES: usize = 128;

/// How the inputs of a body are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFormat {
    /// Images, and archives of images.
    Files,
    /// One inference request, or a JSON list of them.
    List,
    /// One inference request per line.
    Lines,
}

/// Reads the inputs of a submission, chunk by chunk.
pub struct InputReader(ReadState);

impl InputReader {
    /// Reads the inputs of `files`. Reserves what is kept of them in `memory`.
    pub fn new(
        format: PayloadFormat,
        files: Vec<(String, Bytes)>,
        filter: FileFilter,
        limits: SubmissionLimits,
        memory: Reservation,
    ) -> Self {
        Self(ReadState {
            format,
            files: files.into_iter(),
            archive: None,
            requests: None,
            filter,
            limits,
            budget: Budget::new(limits, memory),
            names: UniqueNames::default(),
            read: 0,
            skipped: SkippedFiles::default(),
            next: None,
            chunk_bytes: 0,
        })
    }

    /// Reads the next chunk; it is empty after the last one. Releases the memory of the previous chunk, which must have been sent.
    pub async fn next_chunk(self, pool: &BlockingPool) -> Result<(Vec<Input>, Self), Error> {
        let Self(mut state) = self;
        // The unpacked size of archives is not known in advance.
        let length = if state.format == PayloadFormat::Files { MAX_CHUNK_BYTES } else { state.bytes() };
        let read = move || state.read_chunk().map(|chunk| (chunk, state));
        let (chunk, state) = pool.run(length, read).await??;
        Ok((chunk, Self(state)))
    }

    /// After the last chunk: the files that were skipped. Fails if there was no input.
    pub fn finish(self) -> Result<SkippedFiles, Error> {
        match self.0 {
            ReadState { read: 0, skipped: SkippedFiles { count: 0, .. }, .. } => Err(Error::NoInputs),
            ReadState { read: 0, skipped, .. } => Err(Error::NoImageInputs(skipped)),
            ReadState { skipped, .. } => Ok(skipped),
        }
    }
}

struct ReadState {
    format: PayloadFormat,
    files: vec::IntoIter<(String, Bytes)>,
    archive: Option<Archive>,
    requests: Option<RequestSplitter>,
    filter: FileFilter,
    limits: SubmissionLimits,
    budget: Budget,
    names: UniqueNames,
    /// Inputs so far.
    read: usize,
    skipped: SkippedFiles,
    /// An input that did not fit into the last chunk.
    next: Option<Input>,
    /// Bytes reserved for the last chunk.
    chunk_bytes: usize,
}

impl ReadState {
    fn bytes(&self) -> usize {
        self.files.as_slice().iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn read_chunk(&mut self) -> Result<Vec<Input>, Error> {
        self.budget.memory.release(std::mem::take(&mut self.chunk_bytes));
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < MAX_CHUNK_INPUTS {
            let Some(input) = self.next.take().map_or_else(|| self.read(), |input| Ok(Some(input)))? else { break };
            if !chunk.is_empty() && bytes + input.data.len() > MAX_CHUNK_BYTES {
                self.next = Some(input);
                break;
            }
            bytes += input.data.len();
            self.chunk_bytes += input.data.len();
            chunk.push(input);
        }
        Ok(chunk)
    }

    fn read(&mut self) -> Result<Option<Input>, Error> {
        let input = match self.format {
            PayloadFormat::Files => self.read_file()?,
            PayloadFormat::List => self.read_request(RequestList::Json)?,
            PayloadFormat::Lines => self.read_request(RequestList::Lines)?,
        };
        self.read += usize::from(input.is_some());
        if self.read > self.limits.max_inputs {
            return Err(Error::TooManyInputs { sent: self.read, max: self.limits.max_inputs });
        }
        Ok(input)
    }

    /// Reads the next image from the files, or from an archive among them.
    fn read_file(&mut self) -> Result<Option<Input>, Error> {
        loop {
            let entry = if let Some(archive) = &mut self.archive {
                let entry = archive.next(self.filter, &mut self.budget)?;
                if entry.is_none() {
                    self.archive = None;
                }
                entry
            } else {
                let Some((name, bytes)) = self.files.next() else { return Ok(None) };
                self.open(name, bytes)?
            };
            match entry {
                Some(ArchiveEntry::Input(name, data)) => {
                    // Twice: as the name of the input, and among the names in use.
                    self.budget.memory.reserve(2 * (INPUT_BYTES + name.len().min(MAX_NAME_BYTES)))?;
                    let name = self.names.claim(&name.chars().take(MAX_NAME_LENGTH).collect::<String>());
                    return Ok(Some(Input { name, data, outcome: None }));
                }
                Some(ArchiveEntry::Skipped(name)) => self.skipped.add(&name),
                // An archive has been opened, or has ended.
                None => {}
            }
        }
    }

    /// Opens a file. `None` if it is an archive, which is open now, or an empty form field.
    fn open(&mut self, name: String, bytes: Bytes) -> Result<Option<ArchiveEntry>, Error> {
        let images = self.filter == FileFilter::ImagesOnly;
        if images && (is_hidden(&name) || is_system_file(&name)) {
            return Ok(Some(ArchiveEntry::Skipped(name)));
        }
        let format = ArchiveFormat::detect(&bytes).filter(|_| !images || !is_zip_based(&name));
        if let Some(format) = format {
            self.archive = Some(Archive::open(bytes, format, self.filter, &mut self.budget)?);
            return Ok(None);
        }
        // Browsers send this for a file field without a file.
        if name.is_empty() && bytes.is_empty() {
            return Ok(None);
        }
        if images && !has_image_name(&name) && !is_image(&bytes) {
            return Ok(Some(ArchiveEntry::Skipped(name)));
        }
        // The body, of which this is a part, is reserved already. Reserved again, so that it is released like an unpacked input.
        self.budget.memory.reserve(bytes.len())?;
        Ok(Some(ArchiveEntry::Input(name, bytes)))
    }

    fn read_request(&mut self, format: RequestList) -> Result<Option<Input>, Error> {
        if self.requests.is_none() {
            let body = self.files.next().map(|(_, body)| body).unwrap_or_default();
            self.requests = Some(RequestSplitter::new(body, format)?);
        }
        let Some(requests) = &mut self.requests else { return Ok(None) };
        let Some(text) = requests.next()? else { return Ok(None) };
        if self.read == self.limits.max_inputs {
            return Err(Error::TooManyInputs { sent: self.read + 1, max: self.limits.max_inputs });
        }
        // The text is copied. A name with escapes is unescaped in a buffer of its own before it is truncated.
        self.budget.memory.reserve(text.len())?;
        let unescaped = max_unescaped_bytes(&text);
        self.budget.memory.reserve(unescaped + INPUT_BYTES + MAX_NAME_BYTES)?;
        let input = input_of_request(&text, self.read)?;
        self.budget.memory.release(unescaped + MAX_NAME_BYTES - input.name.len());
        Ok(Some(input))
    }
}

/// Upper bound of the memory for the name of a request: with escapes, three times the request, because the buffer doubles as it grows.
fn max_unescaped_bytes(text: &[u8]) -> usize {
    if text.contains(&b'\\') { 3 * text.len() } else { 0 }
}

/// An input with the `id` of the request as its name, if it has one.
fn input_of_request(text: &Bytes, index: usize) -> Result<Input, Error> {
    #[derive(Deserialize)]
    struct InferenceRequest {
        #[serde(default)]
        id: Option<String>,
    }
    let invalid = |error| Error::InvalidJobRequest(format!("input {index} is not an inference request: {error}"));
    let request: InferenceRequest = serde_json::from_slice(text).map_err(invalid)?;
    let name = request.id.unwrap_or_default().chars().take(MAX_NAME_LENGTH).collect();
    // A copy: a slice would keep the whole body in memory as long as the queue keeps the input.
    Ok(Input { name, data: Bytes::copy_from_slice(text), outcome: None })
}

#[cfg(test)]
mod tests {
    use service::memory_budget::MemoryBudget;

    use super::*;

    #[test]
    fn nothing_is_parsed_after_the_first_input_that_exceeds_the_limit() {
        let limits = SubmissionLimits { max_inputs: 2, max_entries: 8, max_input_bytes: 1 << 20, max_bytes: 1 << 20 };
        for (format, body) in
            [(PayloadFormat::List, "[{}, {}, {}, broken"), (PayloadFormat::Lines, "{}\n{}\n{}\nbroken")]
        {
            let files = vec![(String::new(), Bytes::from_static(body.as_bytes()))];
            let budget = MemoryBudget::new(1 << 20);
            let mut inputs = InputReader::new(format, files, FileFilter::All, limits, budget.reservation(None));
            assert!(matches!(inputs.0.read_chunk(), Err(Error::TooManyInputs { sent: 3, max: 2 })));
            drop(inputs);
            assert_eq!(budget.used(), 0);
        }
    }
}
