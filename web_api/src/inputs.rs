//! Reader of a submission's inputs in pieces of bounded length: archives are unpacked entry by entry, and what has been handed to
//! the queue is no longer held.

use std::collections::HashMap;
use std::vec;

use bytes::Bytes;
use db_api::jobs::{Input, Skipped};
use open_inference::utf8_json;
use serde::Deserialize;
use serde_json::value::RawValue;
use service::body::Share;

use crate::app::App;
use crate::archive::{Archive, Bounds, Budget, Entry, Format, Keep};
use crate::error::Error;
use crate::image_files::{has_image_name, is_image, is_left_behind, is_system_file, is_zip_based};
use crate::submission::Form;

/// A piece has at most so many bytes, or one input.
const PIECE_BYTES: usize = 1 << 20;

/// Inputs of one piece.
const PIECE_INPUTS: usize = 500;

/// Characters of a name that are kept.
const MAX_NAME: usize = 200;

/// The inputs of a submission that have not been read yet.
pub struct Inputs {
    unread: Unread,
    /// For the largest piece so far.
    share: Share,
}

impl Inputs {
    /// Those of `files`, which are told apart as `form` says.
    pub fn new(form: Form, files: Vec<(String, Bytes)>, keep: Keep, bounds: Bounds, share: Share) -> Self {
        let unread = Unread {
            form,
            files: files.into_iter(),
            archive: None,
            requests: None,
            keep,
            bounds,
            budget: Budget::new(bounds),
            names: UniqueNames::default(),
            read: 0,
            skipped: Skipped::default(),
            next: None,
        };
        Self { unread, share }
    }

    /// The next piece; empty after the last.
    pub async fn next(self, app: &App) -> Result<(Vec<Input>, Self), Error> {
        let Self { mut unread, mut share } = self;
        // What an archive unpacks to is not known before.
        let length = if unread.form == Form::Files { PIECE_BYTES } else { unread.bytes() };
        let read = move || unread.piece().map(|piece| (piece, unread));
        let (piece, unread) = app.workbench.run(length, read).await??;
        share.grow(piece.iter().map(|input| input.data.len()).sum())?;
        Ok((piece, Self { unread, share }))
    }

    /// After the last piece: what was skipped. Fails where nothing was left.
    pub fn skipped(self) -> Result<Skipped, Error> {
        match self.unread {
            Unread { read: 0, skipped: Skipped { count: 0, .. }, .. } => Err(Error::NoInputs),
            Unread { read: 0, skipped, .. } => Err(Error::NoImages(skipped)),
            Unread { skipped, .. } => Ok(skipped),
        }
    }
}

struct Unread {
    form: Form,
    files: vec::IntoIter<(String, Bytes)>,
    archive: Option<Archive>,
    requests: Option<vec::IntoIter<Bytes>>,
    keep: Keep,
    bounds: Bounds,
    budget: Budget,
    names: UniqueNames,
    /// Inputs so far.
    read: usize,
    skipped: Skipped,
    /// An input that had no room in the last piece.
    next: Option<Input>,
}

impl Unread {
    fn bytes(&self) -> usize {
        self.files.as_slice().iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn piece(&mut self) -> Result<Vec<Input>, Error> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while piece.len() < PIECE_INPUTS {
            let Some(input) = self.next.take().map_or_else(|| self.read(), |input| Ok(Some(input)))? else { break };
            if !piece.is_empty() && bytes + input.data.len() > PIECE_BYTES {
                self.next = Some(input);
                break;
            }
            bytes += input.data.len();
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
        if self.read > self.bounds.inputs {
            return Err(Error::TooManyInputs { sent: self.read, most: self.bounds.inputs });
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
                Some(Entry::Input(name, data)) => {
                    let name = self.names.claim(&name.chars().take(MAX_NAME).collect::<String>());
                    return Ok(Some(Input { name, data, known: None }));
                }
                Some(Entry::Skipped(name)) => self.skipped.add(&name),
                // An archive that has begun, or has ended.
                None => {}
            }
        }
    }

    /// `None` where the file is an archive, which is open then, or nothing at all.
    fn open(&mut self, name: String, bytes: Bytes) -> Result<Option<Entry>, Error> {
        let images = self.keep == Keep::Images;
        if images && (is_left_behind(&name) || is_system_file(&name)) {
            return Ok(Some(Entry::Skipped(name)));
        }
        let format = Format::of(&bytes).filter(|_| !images || !is_zip_based(&name));
        if let Some(format) = format {
            self.archive = Some(Archive::open(bytes, format, self.keep, &mut self.budget)?);
            return Ok(None);
        }
        // Browsers send this for a file field in which nothing was chosen.
        if name.is_empty() && bytes.is_empty() {
            return Ok(None);
        }
        let is_input = !images || has_image_name(&name) || is_image(&bytes);
        Ok(Some(if is_input { Entry::Input(name, bytes) } else { Entry::Skipped(name) }))
    }

    fn read_request(&mut self) -> Result<Option<Input>, Error> {
        if self.requests.is_none() {
            let body = self.files.next().map(|(_, body)| body).unwrap_or_default();
            let requests = if self.form == Form::List { list(&body)? } else { lines(&body, self.bounds.inputs)? };
            self.requests = Some(requests.into_iter());
        }
        let Some(text) = self.requests.as_mut().and_then(Iterator::next) else { return Ok(None) };
        request(&text, self.read).map(Some)
    }
}

/// One request, or a list of them. They are slices of `body`.
fn list(body: &Bytes) -> Result<Vec<Bytes>, Error> {
    let text = text_of(body, "the JSON is not UTF-8")?;
    if !text.trim_start().starts_with('[') {
        return Ok(vec![body.slice_ref(text.trim().as_bytes())]);
    }
    let requests: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| Error::Job(format!("the JSON is no list: {error}")))?;
    Ok(requests.into_iter().map(|request| body.slice_ref(request.get().as_bytes())).collect())
}

/// A request on each line: at most one more than `most`.
fn lines(body: &Bytes, most: usize) -> Result<Vec<Bytes>, Error> {
    let text = text_of(body, "the lines are not UTF-8")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.take(most + 1).map(|line| body.slice_ref(line.as_bytes())).collect())
}

fn text_of<'a>(body: &'a Bytes, not_utf8: &str) -> Result<&'a str, Error> {
    let text = utf8_json(body).map_err(|error| Error::Job(error.to_string()))?;
    std::str::from_utf8(text).map_err(|_| Error::Job(not_utf8.to_owned()))
}

/// Called by its `id`, where it has one.
fn request(text: &Bytes, index: usize) -> Result<Input, Error> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        id: Option<String>,
    }
    let no_request = |error| Error::Job(format!("input {index} is no request for inference: {error}"));
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
}
