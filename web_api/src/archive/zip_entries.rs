use std::io::Cursor;
use std::vec;

use bytes::Bytes;
use service::memory_budget::Reservation;
use zip::read::{Config, OwnedZipFileEntry};
// `ZipArchive` keeps one entry of each name: of two files with one name, the first would be lost.
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use super::{
    ArchiveError, Budget, DECODER_BYTES, Entry, Keep, MAX_RATIO, is_skipped_by_name, plain_path, read_entry, shortened,
    unreadable,
};
use crate::image_files::has_image_name;

/// What an entry takes beside its name and fields.
const ENTRY_BYTES: usize = 1 << 10;

/// The files of a ZIP. Its central directory is read once, and refused unread where it says itself that it is too long; what is
/// skipped by its name is counted and not kept.
pub struct ZipEntries {
    body: Cursor<Bytes>,
    files: vec::IntoIter<File>,
    /// For the directory.
    _memory: Reservation,
}

enum File {
    Skipped(String),
    Other(String, Box<OwnedZipFileEntry>),
}

impl ZipEntries {
    pub(super) fn open(body: Bytes, keep: Keep, budget: &mut Budget) -> Result<Self, ArchiveError> {
        let body = Cursor::new(body);
        let packed = body.get_ref().len() as u64;
        let mut archive = ZipIterable::try_new(body.clone(), Config::default()).map_err(unreadable)?;
        // From the record at the end, of ZIP64 where there is one.
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
            let path = plain_path(&name)?;
            if entry.is_dir() || name.ends_with(['/', '\\']) {
                continue;
            }
            if is_skipped_by_name(&path, keep) {
                files.push(File::Skipped(path));
                continue;
            }
            // Of other files only the content shows whether they are inputs.
            if keep == Keep::All || has_image_name(&path) {
                let most = budget.bounds.input_bytes;
                if entry.size() > most as u64 {
                    return Err(ArchiveError::EntryTooLarge(shortened(&path), most));
                }
                (inputs, bytes) = (inputs + 1, bytes.saturating_add(entry.size()));
                budget.check(inputs, bytes)?;
            }
            drop(name);
            files.push(File::Other(path, Box::new(entry)));
        }
        if bytes > budget.bounds.input_bytes as u64 && bytes > packed.saturating_mul(MAX_RATIO) {
            return Err(ArchiveError::Ratio(bytes));
        }
        Ok(Self { body, files: files.into_iter(), _memory: memory })
    }

    pub(super) fn next(&mut self, keep: Keep, budget: &mut Budget) -> Result<Option<Entry>, ArchiveError> {
        let (path, entry) = match self.files.next() {
            None => return Ok(None),
            Some(File::Skipped(path)) => return Ok(Some(Entry::Skipped(path))),
            Some(File::Other(path, entry)) => (path, entry),
        };
        if entry.encrypted() {
            return Err(ArchiveError::Encrypted(shortened(&path)));
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(ArchiveError::Compression(shortened(&path), entry.compression().to_string()));
        }
        let data = (*entry).as_ref().with_reader(&mut self.body, ZipReadOptions::new());
        let data = data.map_err(|error| ArchiveError::Damaged(shortened(&path), shortened(&error.to_string())))?;
        read_entry(path, entry.size(), data, keep, budget).map(Some)
    }
}

/// What is kept of the entry whose record in the directory begins at `begin`, at most. A name and a comment are kept twice, and an
/// extra field of four bytes becomes an object.
fn directory_bytes(body: &[u8], begin: u64) -> usize {
    const LENGTHS_AT: usize = 28;
    let lengths =
        usize::try_from(begin).ok().and_then(|begin| body.get(begin..)?.get(LENGTHS_AT..)?.first_chunk::<6>());
    let length =
        |at: usize| lengths.map_or(0, |lengths| usize::from(u16::from_le_bytes([lengths[at], lengths[at + 1]])));
    let (name, extra, comment) = (length(0), length(2), length(4));
    ENTRY_BYTES + 2 * (name + comment) + 32 * extra
}
