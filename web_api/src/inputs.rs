//! Reader of a submission's inputs in pieces of bounded length: archives are unpacked entry by entry, and what has been handed to
//! the queue is no longer held.

use std::collections::HashMap;
use std::vec;

use bytes::Bytes;
use db_api::jobs::{Input, Skipped};
use open_inference::utf8_json;
use serde::Deserialize;
use serde_json::value::RawValue;
use service::memory_budget::Reservation;

use crate::error::Error;
use crate::http::extract::archive::{Archive, ArchiveEntry, ArchiveFormat, Budget, FileFilter, SubmissionLimits};
use crate::http::extract::file_type::{has_image_name, is_hidden, is_image, is_system_file, is_zip_based};
use crate::http::extract::job_submission::Form;
use crate::state::AppState;

/// A piece has at most so many bytes, or one input.
const PIECE_BYTES: usize = 1 << 20;

/// Inputs of one piece.
const PIECE_INPUTS: usize = 500;

/// Characters of a name that are kept.
const MAX_NAME: usize = 200;

/// Bytes of so many characters.
const MAX_NAME_BYTES: usize = 4 * MAX_NAME;

/// What an input, or its name among those that are taken, takes beside its text.
const INPUT_BYTES: usize = 128;

/// The inputs of a submission that have not been read yet.
pub struct Inputs(Unread);

impl Inputs {
    /// Those of `files`, which are told apart as `form` says. What is kept of them is reserved in `memory`.
    pub fn new(
        form: Form,
        files: Vec<(String, Bytes)>,
        keep: FileFilter,
        bounds: SubmissionLimits,
        memory: Reservation,
    ) -> Self {
        Self(Unread {
            form,
            files: files.into_iter(),
            archive: None,
            requests: None,
            keep,
            bounds,
            budget: Budget::new(bounds, memory),
            names: UniqueNames::default(),
            read: 0,
            skipped: Skipped::default(),
            next: None,
            handed_on: 0,
        })
    }

    /// The next piece; empty after the last. The piece before must have been handed on.
    pub async fn next(self, app: &AppState) -> Result<(Vec<Input>, Self), Error> {
        let Self(mut unread) = self;
        // What an archive unpacks to is not known before.
        let length = if unread.form == Form::Files { PIECE_BYTES } else { unread.bytes() };
        let read = move || unread.piece().map(|piece| (piece, unread));
        let (piece, unread) = app.blocking_pool.run(length, read).await??;
        Ok((piece, Self(unread)))
    }

    /// After the last piece: what was skipped. Fails where nothing was left.
    pub fn skipped(self) -> Result<Skipped, Error> {
        match self.0 {
            Unread { read: 0, skipped: Skipped { count: 0, .. }, .. } => Err(Error::NoInputs),
            Unread { read: 0, skipped, .. } => Err(Error::NoImageInputs(skipped)),
            Unread { skipped, .. } => Ok(skipped),
        }
    }
}

struct Unread {
    form: Form,
    files: vec::IntoIter<(String, Bytes)>,
    archive: Option<Archive>,
    requests: Option<Requests>,
    keep: FileFilter,
    bounds: SubmissionLimits,
    budget: Budget,
    names: UniqueNames,
    /// Inputs so far.
    read: usize,
    skipped: Skipped,
    /// An input that had no room in the last piece.
    next: Option<Input>,
    /// Bytes that are reserved for the last piece.
    handed_on: usize,
}

impl Unread {
    fn bytes(&self) -> usize {
        self.files.as_slice().iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn piece(&mut self) -> Result<Vec<Input>, Error> {
        self.budget.memory.release(std::mem::take(&mut self.handed_on));
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while piece.len() < PIECE_INPUTS {
            let Some(input) = self.next.take().map_or_else(|| self.read(), |input| Ok(Some(input)))? else { break };
            if !piece.is_empty() && bytes + input.data.len() > PIECE_BYTES {
                self.next = Some(input);
                break;
            }
            bytes += input.data.len();
            self.handed_on += input.data.len();
            piece.push(input);
        }
        Ok(piece)
    }

    fn read(&mut self) -> Result<Option<Input>, Error> {
        let input = match self.form {
            Form::Files => self.read_file()?,
            Form::List | Form::Lines => self.read_request()?,
        };
        self.read += usize::from(input.is_some());
        if self.read > self.bounds.max_inputs {
            return Err(Error::TooManyInputs { sent: self.read, max: self.bounds.max_inputs });
        }
        Ok(input)
    }

    /// A file is an image, or an archive of images.
    fn read_file(&mut self) -> Result<Option<Input>, Error> {
        loop {
            let entry = if let Some(archive) = &mut self.archive {
                let entry = archive.next(self.keep, &mut self.budget)?;
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
                    // As an input's, and among those that are taken.
                    self.budget.memory.reserve(2 * (INPUT_BYTES + name.len().min(MAX_NAME_BYTES)))?;
                    let name = self.names.claim(&name.chars().take(MAX_NAME).collect::<String>());
                    return Ok(Some(Input { name, data, known: None }));
                }
                Some(ArchiveEntry::Skipped(name)) => self.skipped.add(&name),
                // An archive that has begun, or has ended.
                None => {}
            }
        }
    }

    /// `None` where the file is an archive, which is open then, or nothing at all.
    fn open(&mut self, name: String, bytes: Bytes) -> Result<Option<ArchiveEntry>, Error> {
        let images = self.keep == FileFilter::ImagesOnly;
        if images && (is_hidden(&name) || is_system_file(&name)) {
            return Ok(Some(ArchiveEntry::Skipped(name)));
        }
        let format = ArchiveFormat::detect(&bytes).filter(|_| !images || !is_zip_based(&name));
        if let Some(format) = format {
            self.archive = Some(Archive::open(bytes, format, self.keep, &mut self.budget)?);
            return Ok(None);
        }
        // Browsers send this for a file field in which nothing was chosen.
        if name.is_empty() && bytes.is_empty() {
            return Ok(None);
        }
        if images && !has_image_name(&name) && !is_image(&bytes) {
            return Ok(Some(ArchiveEntry::Skipped(name)));
        }
        // A part of the body, which is counted already; so are inputs that are unpacked, and all are given back alike.
        self.budget.memory.reserve(bytes.len())?;
        Ok(Some(ArchiveEntry::Input(name, bytes)))
    }

    fn read_request(&mut self) -> Result<Option<Input>, Error> {
        if self.requests.is_none() {
            let body = self.files.next().map(|(_, body)| body).unwrap_or_default();
            self.requests = Some(Requests::new(body, self.form)?);
        }
        let Some(requests) = &mut self.requests else { return Ok(None) };
        let Some(text) = requests.next()? else { return Ok(None) };
        if self.read == self.bounds.max_inputs {
            return Err(Error::TooManyInputs { sent: self.read + 1, max: self.bounds.max_inputs });
        }
        // Its text is copied, and a name with escapes grows in a buffer of its own before it is cut.
        self.budget.memory.reserve(text.len())?;
        let reading = weight_of_name(&text);
        self.budget.memory.reserve(reading + INPUT_BYTES + MAX_NAME_BYTES)?;
        let input = request(&text, self.read)?;
        self.budget.memory.release(reading + MAX_NAME_BYTES - input.name.len());
        Ok(Some(input))
    }
}

/// Requests of a body, read one after the other: what stands behind the first one too many is not looked at.
struct Requests {
    body: Bytes,
    form: Form,
    /// Where the next one is looked for.
    at: usize,
    /// Of a list.
    is_list: bool,
    is_over: bool,
}

impl Requests {
    fn new(body: Bytes, form: Form) -> Result<Self, Error> {
        let text = utf8_json(&body).map_err(|error| Error::InvalidJobRequest(error.to_string()))?;
        let list = text.trim_ascii_start().strip_prefix(b"[").filter(|_| form == Form::List);
        let is_list = list.is_some();
        let at = body.len() - list.unwrap_or(text).len();
        Ok(Self { at, body, form, is_list, is_over: false })
    }

    /// The next one, as a slice of the body.
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let rest = &self.body[self.at..];
        let (request, behind) = match self.form {
            Form::List if self.is_list => next_element(rest)?,
            Form::List => (Some(rest.trim_ascii()), rest.len()),
            Form::Lines | Form::Files => next_line(rest),
        };
        let request = request.map(|request| self.body.slice_ref(request));
        self.at += behind;
        self.is_over = request.is_none() || self.form == Form::List && !self.is_list;
        Ok(request)
    }
}

/// The first element of what is left of a list, and where what follows it and its comma begins.
fn next_element(rest: &[u8]) -> Result<(Option<&[u8]>, usize), Error> {
    let no_list = |error: &dyn std::fmt::Display| Error::InvalidJobRequest(format!("the JSON is no list: {error}"));
    if let Some(behind) = rest.trim_ascii_start().strip_prefix(b"]") {
        let is_end = behind.trim_ascii().is_empty();
        return if is_end { Ok((None, rest.len())) } else { Err(no_list(&"something stands behind its end")) };
    }
    let mut reader = serde_json::Deserializer::from_slice(rest);
    let element = <&RawValue>::deserialize(&mut reader).map_err(|error| no_list(&error))?.get().as_bytes();
    // The reader says where it is only when it reads a stream; spaces before the element are the only other thing it has read.
    let end = rest.len() - rest.trim_ascii_start().len() + element.len();
    let behind = rest[end..].trim_ascii_start();
    let at = rest.len() - behind.len();
    match behind.split_first() {
        Some((b',', next)) if next.trim_ascii_start().starts_with(b"]") => {
            Err(no_list(&"a comma stands before its end"))
        }
        Some((b',', _)) => Ok((Some(element), at + 1)),
        Some((b']', _)) => Ok((Some(element), at)),
        _ => Err(no_list(&"an element is followed by neither a comma nor the list's end")),
    }
}

/// The first line that is not empty, and where the next one begins.
fn next_line(rest: &[u8]) -> (Option<&[u8]>, usize) {
    let mut at = 0;
    for line in rest.split_inclusive(|&byte| byte == b'\n') {
        at += line.len();
        let line = line.trim_ascii();
        if !line.is_empty() {
            return (Some(line), at);
        }
    }
    (None, rest.len())
}

/// What reading the name of a request takes at most: with escapes, three times the request, in a buffer that doubles.
fn weight_of_name(text: &[u8]) -> usize {
    if text.contains(&b'\\') { 3 * text.len() } else { 0 }
}

/// Called by its `id`, where it has one.
fn request(text: &Bytes, index: usize) -> Result<Input, Error> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        id: Option<String>,
    }
    let no_request = |error| Error::InvalidJobRequest(format!("input {index} is no request for inference: {error}"));
    let named: Named = serde_json::from_slice(text).map_err(no_request)?;
    let name = named.id.unwrap_or_default().chars().take(MAX_NAME).collect();
    // A slice would keep all of the body for as long as the queue keeps the input.
    Ok(Input { name, data: Bytes::copy_from_slice(text), known: None })
}

/// Names of files, each of them once: the second `a.png` is `a (2).png`.
#[derive(Default)]
struct UniqueNames {
    /// With the number that the next file of this name tries.
    taken: HashMap<String, u32>,
}

impl UniqueNames {
    fn claim(&mut self, name: &str) -> String {
        // A single image may have none.
        if name.is_empty() {
            return String::new();
        }
        let Some(&first) = self.taken.get(name) else {
            self.taken.insert(name.to_owned(), 2);
            return name.to_owned();
        };
        let folder = name.rfind('/').map_or(0, |slash| slash + 1);
        // A dot in front begins a hidden file's name, and no extension.
        let dot = name[folder..].rfind('.').filter(|&dot| dot > 0).map_or(name.len(), |dot| folder + dot);
        let (stem, extension) = name.split_at(dot);
        let mut number = first;
        let unique = loop {
            let candidate = format!("{stem} ({number}){extension}");
            number += 1;
            if !self.taken.contains_key(&candidate) {
                break candidate;
            }
        };
        self.taken.insert(name.to_owned(), number);
        self.taken.insert(unique.clone(), 2);
        unique
    }
}

#[cfg(test)]
mod tests {
    use service::memory_budget::MemoryBudget;

    use super::*;

    #[test]
    fn each_name_is_given_once() {
        let mut names = UniqueNames::default();
        let given: Vec<String> = ["a.png", "a.png", "a (2).png", "a.png", "x.y/a", "x.y/a", ".b", ".b", "", ""]
            .into_iter()
            .map(|name| names.claim(name))
            .collect();
        let expected =
            ["a.png", "a (2).png", "a (2) (2).png", "a (3).png", "x.y/a", "x.y/a (2)", ".b", ".b (2)", "", ""];
        assert_eq!(given, expected);
    }

    fn requests(body: &str, form: Form) -> Result<Vec<String>, String> {
        let mut requests =
            Requests::new(Bytes::copy_from_slice(body.as_bytes()), form).map_err(|error| error.to_string())?;
        let mut read = Vec::new();
        while let Some(request) = requests.next().map_err(|error| error.to_string())? {
            read.push(String::from_utf8(request.to_vec()).unwrap());
        }
        Ok(read)
    }

    #[test]
    fn a_list_is_read_element_by_element() {
        for (body, elements) in [
            ("[]", &[][..]),
            (" [ ] ", &[]),
            ("\u{feff}[1]", &["1"]),
            ("\n[ {\"a\": [1, 2]} ,\t\"]\" ,[[]]\r\n] ", &["{\"a\": [1, 2]}", "\"]\"", "[[]]"]),
            (" {\"a\": 1} ", &["{\"a\": 1}"]),
        ] {
            assert_eq!(requests(body, Form::List).unwrap(), elements, "{body}");
        }
        for body in ["[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1] 2", "[1]]", "[{]}", "[1}", "[nul]"] {
            let error = requests(body, Form::List).unwrap_err();
            assert!(error.starts_with("the JSON is no list: "), "{body}: {error}");
        }
        assert_eq!(requests("\u{feff}1\n\n 2 \r\n{}\n", Form::Lines).unwrap(), ["1", "2", "{}"]);
    }

    #[test]
    fn what_stands_behind_the_first_element_too_many_is_not_read() {
        let bounds = SubmissionLimits { max_inputs: 2, max_entries: 8, max_input_bytes: 1 << 20, max_bytes: 1 << 20 };
        for (form, body) in [(Form::List, "[{}, {}, {}, broken"), (Form::Lines, "{}\n{}\n{}\nbroken")] {
            let files = vec![(String::new(), Bytes::from_static(body.as_bytes()))];
            let budget = MemoryBudget::new(1 << 20);
            let mut inputs = Inputs::new(form, files, FileFilter::All, bounds, budget.reservation(None));
            assert!(matches!(inputs.0.piece(), Err(Error::TooManyInputs { sent: 3, max: 2 })));
            drop(inputs);
            assert_eq!(budget.used(), 0);
        }
    }
}
