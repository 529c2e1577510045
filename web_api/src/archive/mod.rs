//! Streaming reader for ZIP and TAR archives with limits against decompression bombs.
//!
//! Only one entry at a time is in memory. Nothing is written to a file system: the name of an entry is only a label.

use std::io::Read;

use bytes::Bytes;
use service::body_limits::BodyError;
use service::memory_budget::Reservation;

/// File type detection by content and by name.
pub mod file_type;

/// TAR, plain or compressed with gzip: read sequentially.
mod tar_entries;

/// ZIP: read through its central directory.
mod zip_entries;

use file_type::{HEAD_BYTES, has_image_name, is_hidden, is_image, is_system_file};
use tar_entries::TarEntries;
use zip_entries::ZipEntries;

/// Maximum ratio of unpacked size to packed size of an archive that unpacks to more than one body.
///
/// Deflate compresses blank scans about a thousand times, and nothing more than 1,032 times. Only an archive with overlapping entries
/// exceeds that.
const MAX_COMPRESSION_RATIO: u64 = 1000;

/// Memory of a Deflate decoder in bytes: a window of 32 KiB, tables, and buffers.
const DECODER_BYTES: usize = 128 << 10;

/// Reason of [`ArchiveError::Damaged`] for a truncated entry.
const ENDS_EARLY: &str = "it ends early";

/// Maximum number of characters of a name that an error message repeats.
const MAX_SHOWN_CHARACTERS: usize = 100;

/// Limits of one submission, over all of its archives.
#[derive(Clone, Copy, Debug)]
pub struct SubmissionLimits {
    /// Maximum number of inputs.
    pub max_inputs: usize,
    /// Maximum number of archive entries, including folders and skipped files.
    pub max_entries: usize,
    /// Maximum size of one input in bytes, unpacked.
    pub max_input_bytes: usize,
    /// Maximum size of all inputs in bytes, unpacked.
    pub max_bytes: u64,
}

/// Which files of an archive are inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFilter {
    /// Files with the content or the name of an image.
    ImagesOnly,
    /// All files, except hidden files and `__MACOSX`.
    All,
}

/// Why an archive is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The archive is damaged, or its format is not supported.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// An entry is damaged.
    #[error("the archive's entry {0:?} cannot be read: {1}")]
    Damaged(String, String),
    /// An entry is encrypted.
    #[error("the archive's entry {0:?} is encrypted; send it without a password")]
    Encrypted(String),
    /// The compression method of an entry is not supported.
    #[error("the archive's entry {0:?} is compressed with {1}; only Deflate and stored entries are supported")]
    Compression(String, String),
    /// An entry is a link, or its path leads out of the archive.
    #[error("the archive contains {0:?}, which is not a regular file with a path inside the archive")]
    Unsafe(String),
    /// An entry exceeds [`SubmissionLimits::max_input_bytes`].
    #[error("the archive's entry {0:?} is larger than {1} bytes, the maximum for one input")]
    EntryTooLarge(String, usize),
    /// The archive exceeds one of the [`SubmissionLimits`].
    #[error("the archive contains more than {0}")]
    TooMuch(String),
    /// Decompression bomb.
    #[error("the archive unpacks to {0} bytes, more than {MAX_COMPRESSION_RATIO} times its packed size")]
    Ratio(u64),
    /// The memory budget has no room for the contents.
    #[error("{0}")]
    Memory(#[from] BodyError),
}

/// Archive format, detected by magic bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// `PK` at the beginning.
    Zip,
    /// `ustar` in the first header.
    Tar,
    /// gzip. Its content must be a TAR.
    TarGz,
}

impl ArchiveFormat {
    /// Detects the format of `body`. Returns `None` where it is not an archive.
    pub fn detect(body: &[u8]) -> Option<Self> {
        match body {
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            [0x1f, 0x8b, ..] => Some(Self::TarGz),
            _ if body.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            _ => None,
        }
    }
}

/// Usage of one submission against its [`SubmissionLimits`], over all files and archives, and the memory reservation of its inputs.
#[derive(Debug)]
pub struct Budget {
    limits: SubmissionLimits,
    inputs: usize,
    entries: usize,
    bytes: u64,
    /// Reservation for inputs that have been read. The caller releases their bytes when it hands them on.
    pub memory: Reservation,
}

impl Budget {
    /// Budget with nothing used.
    pub fn new(limits: SubmissionLimits, memory: Reservation) -> Self {
        Self { limits, inputs: 0, entries: 0, bytes: 0, memory }
    }

    fn count_entry(&mut self) -> Result<(), ArchiveError> {
        self.check_entries(1)?;
        self.entries += 1;
        Ok(())
    }

    /// Fails where `entries` more entries exceed the limit.
    fn check_entries(&self, entries: usize) -> Result<(), ArchiveError> {
        let max = self.limits.max_entries;
        let fits = self.entries.saturating_add(entries) <= max;
        if fits { Ok(()) } else { Err(ArchiveError::TooMuch(format!("{max} entries"))) }
    }

    /// Fails where `inputs` more inputs with a total of `bytes` bytes exceed the limits.
    fn check(&self, inputs: usize, bytes: u64) -> Result<(), ArchiveError> {
        if self.inputs.saturating_add(inputs) > self.limits.max_inputs {
            return Err(ArchiveError::TooMuch(format!("{} files", self.limits.max_inputs)));
        }
        if self.bytes.saturating_add(bytes) > self.limits.max_bytes {
            return Err(self.too_many_bytes());
        }
        Ok(())
    }

    fn too_many_bytes(&self) -> ArchiveError {
        ArchiveError::TooMuch(format!("{} bytes, unpacked", self.limits.max_bytes))
    }
}

/// File of an archive.
#[derive(Debug, PartialEq, Eq)]
pub enum ArchiveEntry {
    /// Input: path in the archive, and content.
    Input(String, Bytes),
    /// Path of a file that is not an input.
    Skipped(String),
}

/// Open archive.
pub enum Archive {
    /// Read through its central directory.
    Zip(ZipEntries),
    /// Read sequentially.
    Tar(TarEntries),
}

impl Archive {
    /// Opens an archive. The directory of a ZIP is checked against the limits here.
    pub fn open(
        body: Bytes,
        format: ArchiveFormat,
        filter: FileFilter,
        budget: &mut Budget,
    ) -> Result<Self, ArchiveError> {
        Ok(match format {
            ArchiveFormat::Zip => Self::Zip(ZipEntries::open(body, filter, budget)?),
            ArchiveFormat::Tar => Self::Tar(TarEntries::open(body, budget)?),
            ArchiveFormat::TarGz => Self::Tar(TarEntries::open_gzip(body, budget)?),
        })
    }

    /// Returns the next file, in the order of the archive.
    pub fn next(&mut self, filter: FileFilter, budget: &mut Budget) -> Result<Option<ArchiveEntry>, ArchiveError> {
        match self {
            Self::Zip(entries) => entries.next(filter, budget),
            Self::Tar(entries) => entries.next(filter, budget),
        }
    }
}

/// Normalizes the path of an entry: `/` is the separator, also where a program on Windows has written `\`. Fails where the path
/// leads out of the archive.
fn normalized_path(name: &str) -> Result<String, ArchiveError> {
    let path = name.replace('\\', "/");
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let has_drive =
        matches!(parts.first().map(|part| part.as_bytes()), Some([drive, b':', ..]) if drive.is_ascii_alphabetic());
    if path.starts_with('/') || has_drive || parts.contains(&"..") {
        return Err(ArchiveError::Unsafe(shortened(name)));
    }
    Ok(parts.join("/"))
}

/// Whether the file is skipped by its path, whatever its content is.
fn is_skipped_by_name(path: &str, filter: FileFilter) -> bool {
    is_hidden(path) || filter == FileFilter::ImagesOnly && is_system_file(path)
}

/// Reads an entry. Of a file that is skipped by its content, it reads only the beginning.
fn read_entry(
    path: String,
    declared: u64,
    mut data: impl Read,
    filter: FileFilter,
    budget: &mut Budget,
) -> Result<ArchiveEntry, ArchiveError> {
    let damaged = |error: std::io::Error| ArchiveError::Damaged(shortened(&path), shortened(&error.to_string()));
    let mut bytes = Vec::new();
    if filter == FileFilter::ImagesOnly && !has_image_name(&path) {
        data.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes).map_err(damaged)?;
        if !is_image(&bytes) {
            return Ok(ArchiveEntry::Skipped(path));
        }
    }
    budget.check(1, declared)?;
    let max = budget.limits.max_input_bytes;
    if declared > max as u64 {
        return Err(ArchiveError::EntryTooLarge(shortened(&path), max));
    }
    budget.memory.reserve(declared as usize)?;
    bytes.reserve_exact((declared as usize).saturating_sub(bytes.len()));
    data.by_ref().take(declared.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes).map_err(damaged)?;
    // Reading past the end makes the reader verify the checksum.
    let is_longer = data.read(&mut [0]).map_err(damaged)? > 0;
    if is_longer || bytes.len() as u64 != declared {
        let reason = if is_longer { "it is longer than its declared size" } else { ENDS_EARLY };
        return Err(ArchiveError::Damaged(shortened(&path), reason.to_owned()));
    }
    budget.inputs += 1;
    budget.bytes += declared;
    Ok(ArchiveEntry::Input(path, bytes.into()))
}

fn unreadable(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Unreadable(shortened(&error.to_string()))
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARACTERS).collect()
}

#[cfg(test)]
mod tests;
