//! Streaming reader for ZIP and TAR archives: one entry at a time is in memory. Nothing is written to a disk; names are labels.

use std::io::Read;

use bytes::Bytes;
use service::body_limits::BodyError;
use service::memory_budget::Reservation;

use crate::image_files::{HEAD_BYTES, has_image_name, is_image, is_left_behind, is_system_file};

/// TAR, plain or in gzip: read from its beginning to its end.
mod tar_entries;

/// ZIP: read by its central directory.
mod zip_entries;

use tar_entries::TarEntries;
use zip_entries::ZipEntries;

/// Up to the length of one body, an archive may be packed as tightly as its format allows; beyond, its bytes unpacked are
/// at most this many times its own. Deflate packs blank scans up to a thousand times, and nothing more than 1,032 times; archives whose
/// entries overlap do.
const MAX_RATIO: u64 = 1000;

/// What unpacking takes beside what is unpacked: a window of 32 KiB, tables, and buffers.
const DECODER_BYTES: usize = 128 << 10;

/// Why an entry that is shorter than it should be cannot be read.
const ENDS_EARLY: &str = "it ends early";

/// What one submission may hold, in all its archives together.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Inputs.
    pub inputs: usize,
    /// Entries of archives, with folders and what is skipped.
    pub entries: usize,
    /// Bytes of one input, unpacked.
    pub input_bytes: usize,
    /// Bytes of all inputs, unpacked.
    pub bytes: u64,
}

/// Which files of an archive are inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Files whose content, or whose name, is an image's.
    Images,
    /// All but hidden files and `__MACOSX`.
    All,
}

/// Why an archive is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is damaged, or of a kind that is not read here.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// One entry is damaged.
    #[error("the archive's entry {0:?} cannot be read: {1}")]
    Damaged(String, String),
    /// An entry with a password.
    #[error("the archive's entry {0:?} is encrypted; send it without a password")]
    Encrypted(String),
    /// An entry whose compression method is not read here.
    #[error("the archive's entry {0:?} is compressed with {1}; only Deflate and stored entries are read")]
    Compression(String, String),
    /// A name that leads out of the archive, or a link.
    #[error("the archive holds {0:?}, which is no plain file below its top")]
    Unsafe(String),
    /// One entry is larger than an input may be.
    #[error("the archive's entry {0:?} is larger than {1} bytes, which one input may have")]
    EntryTooLarge(String, usize),
    /// More than [`Bounds`] allow.
    #[error("the archive holds more than {0}")]
    TooMuch(String),
    /// A decompression bomb.
    #[error("the archive unpacks to {0} bytes, more than {MAX_RATIO} times its own length")]
    Ratio(u64),
    /// There is no memory for what it holds.
    #[error("{0}")]
    Memory(#[from] BodyError),
}

/// What a body is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `PK`.
    Zip,
    /// `ustar` where a header has it.
    Tar,
    /// A gzip, which can only be of a TAR here.
    TarGz,
}

impl Format {
    /// The format of `body`, if it is an archive.
    pub fn of(body: &[u8]) -> Option<Self> {
        match body {
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            [0x1f, 0x8b, ..] => Some(Self::TarGz),
            _ if body.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            _ => None,
        }
    }
}

/// What is left of the [`Bounds`] of one submission, in all its files and archives together, and the memory that is reserved for
/// what is read.
#[derive(Debug)]
pub struct Budget {
    bounds: Bounds,
    inputs: usize,
    entries: usize,
    bytes: u64,
    /// For inputs that have been read. Whoever hands them on gives their bytes back.
    pub memory: Reservation,
}

impl Budget {
    /// All of `bounds`.
    pub fn new(bounds: Bounds, memory: Reservation) -> Self {
        Self { bounds, inputs: 0, entries: 0, bytes: 0, memory }
    }

    fn count_entry(&mut self) -> Result<(), ArchiveError> {
        self.check_entries(1)?;
        self.entries += 1;
        Ok(())
    }

    /// Fails where `entries` further ones are too many.
    fn check_entries(&self, entries: usize) -> Result<(), ArchiveError> {
        let most = self.bounds.entries;
        let fits = self.entries.saturating_add(entries) <= most;
        if fits { Ok(()) } else { Err(ArchiveError::TooMuch(format!("{most} entries"))) }
    }

    /// Fails where `inputs` further ones of `bytes` bytes together are too many.
    fn check(&self, inputs: usize, bytes: u64) -> Result<(), ArchiveError> {
        if self.inputs.saturating_add(inputs) > self.bounds.inputs {
            return Err(ArchiveError::TooMuch(format!("{} files", self.bounds.inputs)));
        }
        if self.bytes.saturating_add(bytes) > self.bounds.bytes {
            return Err(self.too_many_bytes());
        }
        Ok(())
    }

    fn too_many_bytes(&self) -> ArchiveError {
        ArchiveError::TooMuch(format!("{} bytes, unpacked", self.bounds.bytes))
    }
}

/// An entry of an archive that is a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// An input, under its path in the archive.
    Input(String, Bytes),
    /// A file that is no input.
    Skipped(String),
}

/// An archive that is being read.
pub enum Archive {
    /// From its central directory.
    Zip(ZipEntries),
    /// From its beginning to its end.
    Tar(TarEntries),
}

impl Archive {
    /// Reads an archive's directory, where its format has one, and refuses what is too much by that already.
    pub fn open(body: Bytes, format: Format, keep: Keep, budget: &mut Budget) -> Result<Self, ArchiveError> {
        Ok(match format {
            Format::Zip => Self::Zip(ZipEntries::open(body, keep, budget)?),
            Format::Tar => Self::Tar(TarEntries::plain(body, budget)?),
            Format::TarGz => Self::Tar(TarEntries::packed(body, budget)?),
        })
    }

    /// The next file, in the archive's order.
    pub fn next(&mut self, keep: Keep, budget: &mut Budget) -> Result<Option<Entry>, ArchiveError> {
        match self {
            Self::Zip(entries) => entries.next(keep, budget),
            Self::Tar(entries) => entries.next(keep, budget),
        }
    }
}

/// An entry's path with `/` between its parts, also where a program on Windows has written `\`. Fails where it leads out of
/// the archive.
fn plain_path(name: &str) -> Result<String, ArchiveError> {
    let path = name.replace('\\', "/");
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let has_drive =
        matches!(parts.first().map(|part| part.as_bytes()), Some([drive, b':', ..]) if drive.is_ascii_alphabetic());
    if path.starts_with('/') || has_drive || parts.contains(&"..") {
        return Err(ArchiveError::Unsafe(shortened(name)));
    }
    Ok(parts.join("/"))
}

/// Whether the file of this path is skipped without a look at its content.
fn is_skipped_by_name(path: &str, keep: Keep) -> bool {
    is_left_behind(path) || keep == Keep::Images && is_system_file(path)
}

/// Reads an entry to its end, or only its beginning where that shows that it is skipped.
fn read_entry(
    path: String,
    declared: u64,
    mut data: impl Read,
    keep: Keep,
    budget: &mut Budget,
) -> Result<Entry, ArchiveError> {
    let damaged = |error: std::io::Error| ArchiveError::Damaged(shortened(&path), shortened(&error.to_string()));
    let mut bytes = Vec::new();
    if keep == Keep::Images && !has_image_name(&path) {
        data.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes).map_err(damaged)?;
        if !is_image(&bytes) {
            return Ok(Entry::Skipped(path));
        }
    }
    budget.check(1, declared)?;
    let most = budget.bounds.input_bytes;
    if declared > most as u64 {
        return Err(ArchiveError::EntryTooLarge(shortened(&path), most));
    }
    budget.memory.reserve(declared as usize)?;
    bytes.reserve_exact((declared as usize).saturating_sub(bytes.len()));
    data.by_ref().take(declared.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes).map_err(damaged)?;
    // The reader compares a checksum where it finds the end.
    let is_longer = data.read(&mut [0]).map_err(damaged)? > 0;
    if is_longer || bytes.len() as u64 != declared {
        let reason = if is_longer { "it is longer than it says" } else { ENDS_EARLY };
        return Err(ArchiveError::Damaged(shortened(&path), reason.to_owned()));
    }
    budget.inputs += 1;
    budget.bytes += declared;
    Ok(Entry::Input(path, bytes.into()))
}

fn unreadable(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Unreadable(shortened(&error.to_string()))
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests;
