use std::io::Cursor;
use std::vec;

use bytes::Bytes;
use service::memory_budget::Reservation;
use zip::read::{Config, OwnedZipFileEntry};
// Not `ZipArchive`, which keeps only the last of several entries with the same name.
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use super::file_type::has_image_name;
use super::{
    ArchiveEntry, ArchiveError, Budget, DECODER_BYTES, FileFilter, MAX_COMPRESSION_RATIO, is_skipped_by_name,
    normalized_path, read_entry, shortened, unreadable,
};

/// Memory of a directory entry, without its name and fields, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 1 << 10;

/// Files of a ZIP.
///
/// The central directory is read once. A directory that declares too many entries is rejected before it is read.
pub struct ZipEntries {
    body: Cursor<Bytes>,
    files: vec::IntoIter<DirectoryEntry>,
    /// Reservation for the directory.
    _memory: Reservation,
}

enum DirectoryEntry {
    Skipped(String),
    /// Path, and the entry, which is an input unless its content shows otherwise.
    Candidate(String, Box<OwnedZipFileEntry>),
}

impl ZipEntries {
    pub(super) fn open(body: Bytes, filter: FileFilter, budget: &mut Budget) -> Result<Self, ArchiveError> {
        let body = Cursor::new(body);
        let packed = body.get_ref().len() as u64;
        let mut archive = ZipIterable::try_new(body.clone(), Config::default()).map_err(unreadable)?;
        // The declared number of entries, from the end-of-directory record (of ZIP64, where there is one).
        budget.check_entries(archive.len())?;
        let mut memory = budget.memory.sibling();
        memory.reserve(DECODER_BYTES)?;
        let (mut files, mut inputs, mut bytes) = (Vec::new(), 0, 0_u64);
        for entry in archive.files().map_err(unreadable)? {
            let entry = OwnedZipFileEntry::from(entry.map_err(unreadable)?);
            budget.count_entry()?;
            memory.reserve(directory_bytes(body.get_ref(), entry.central_header_start()))?;
            let name = entry.name().map_err(unreadable)?;
            if entry.is_symlink() {
                return Err(ArchiveError::Unsafe(shortened(&name)));
            }
            let path = normalized_path(&name)?;
            if entry.is_dir() || name.ends_with(['/', '\\']) {
                continue;
            }
            if is_skipped_by_name(&path, filter) {
                files.push(DirectoryEntry::Skipped(path));
                continue;
            }
            // For other files, only the content shows whether they are inputs.
            if filter == FileFilter::All || has_image_name(&path) {
                let max = budget.limits.max_input_bytes;
                if entry.size() > max as u64 {
                    return Err(ArchiveError::EntryTooLarge(shortened(&path), max));
                }
                (inputs, bytes) = (inputs + 1, bytes.saturating_add(entry.size()));
                budget.check(inputs, bytes)?;
            }
            drop(name);
            files.push(DirectoryEntry::Candidate(path, Box::new(entry)));
        }
        if bytes > budget.limits.max_input_bytes as u64 && bytes > packed.saturating_mul(MAX_COMPRESSION_RATIO) {
            return Err(ArchiveError::Ratio(bytes));
        }
        Ok(Self { body, files: files.into_iter(), _memory: memory })
    }

    pub(super) fn next(
        &mut self,
        filter: FileFilter,
        budget: &mut Budget,
    ) -> Result<Option<ArchiveEntry>, ArchiveError> {
        let (path, entry) = match self.files.next() {
            None => return Ok(None),
            Some(DirectoryEntry::Skipped(path)) => return Ok(Some(ArchiveEntry::Skipped(path))),
            Some(DirectoryEntry::Candidate(path, entry)) => (path, entry),
        };
        if entry.encrypted() {
            return Err(ArchiveError::Encrypted(shortened(&path)));
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(ArchiveError::Compression(shortened(&path), entry.compression().to_string()));
        }
        let data = (*entry).as_ref().with_reader(&mut self.body, ZipReadOptions::new());
        let data = data.map_err(|error| ArchiveError::Damaged(shortened(&path), shortened(&error.to_string())))?;
        read_entry(path, entry.size(), data, filter, budget).map(Some)
    }
}

/// Upper bound of the memory of the entry whose directory record starts at `begin`, in bytes.
///
/// The `zip` crate keeps the name and the comment twice, and an extra field of four bytes becomes an object.
fn directory_bytes(body: &[u8], begin: u64) -> usize {
    const LENGTHS_AT: usize = 28;
    let lengths =
        usize::try_from(begin).ok().and_then(|begin| body.get(begin..)?.get(LENGTHS_AT..)?.first_chunk::<6>());
    let length =
        |at: usize| lengths.map_or(0, |lengths| usize::from(u16::from_le_bytes([lengths[at], lengths[at + 1]])));
    let (name, extra, comment) = (length(0), length(2), length(4));
    ENTRY_OVERHEAD_BYTES + 2 * (name + comment) + 32 * extra
}
