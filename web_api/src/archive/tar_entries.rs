use std::io::{self, Cursor, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tar::EntryType;

use super::{
    ArchiveError, Budget, ENDS_EARLY, Entry, Keep, is_skipped_by_name, plain_path, read_entry, shortened, unreadable,
};
use crate::image_files::HEAD_BYTES;

/// Entries and their headers stand in blocks of this length.
const BLOCK: u64 = 512;

/// Headers of one entry, with a long name.
const HEADER_BYTES: u64 = 4096;

/// The files of a TAR, which may be packed with gzip.
pub struct TarEntries {
    /// Bounded: what is skipped is unpacked as well, and headers without end hold no file.
    tar: io::Take<Box<dyn Read + Send>>,
}

impl TarEntries {
    pub(super) fn plain(body: Bytes, budget: &Budget) -> Self {
        Self::new(Box::new(Cursor::new(body)), budget)
    }

    /// Of one gzip member or several, as `pigz`, `bgzip` and `cat` write them.
    pub(super) fn packed(body: Bytes, budget: &Budget) -> Self {
        Self::new(Box::new(MultiGzDecoder::new(Cursor::new(body))), budget)
    }

    fn new(tar: Box<dyn Read + Send>, budget: &Budget) -> Self {
        let headers = (budget.bounds.entries as u64).saturating_mul(HEADER_BYTES);
        Self { tar: tar.take(budget.bounds.bytes.saturating_add(headers)) }
    }

    pub(super) fn next(&mut self, keep: Keep, budget: &mut Budget) -> Result<Option<Entry>, ArchiveError> {
        let found = self.find(keep, budget);
        match found {
            Err(ArchiveError::Unreadable(_) | ArchiveError::Damaged(..)) if self.tar.limit() == 0 => {
                Err(budget.too_many_bytes())
            }
            found => found,
        }
    }

    fn find(&mut self, keep: Keep, budget: &mut Budget) -> Result<Option<Entry>, ArchiveError> {
        loop {
            // Each time an archive of its own, which begins with the next header: an iterator over all would borrow the first.
            let mut archive = tar::Archive::new(&mut self.tar);
            let Some(entry) = archive.entries().map_err(unreadable)?.next() else { return Ok(None) };
            let mut entry = entry.map_err(unreadable)?;
            budget.count_entry()?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let size = entry.size();
            let found = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let path = plain_path(&name)?;
                    // The oldest format marks folders by their names alone.
                    if name.ends_with('/') {
                        None
                    } else if is_skipped_by_name(&path, keep) {
                        Some(Entry::Skipped(path))
                    } else {
                        Some(read_entry(path, size, &mut entry, keep, budget)?)
                    }
                }
                EntryType::Directory | EntryType::XGlobalHeader => None,
                _ => return Err(ArchiveError::Unsafe(shortened(&name))),
            };
            let rest = io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
            // An input has been read to its end, a skipped file at most for its first bytes.
            if !matches!(found, Some(Entry::Input(..))) && rest + HEAD_BYTES.min(size) < size {
                return Err(ArchiveError::Damaged(shortened(&name), ENDS_EARLY.to_owned()));
            }
            let padding = size.next_multiple_of(BLOCK) - size;
            io::copy(&mut self.tar.by_ref().take(padding), &mut io::sink()).map_err(unreadable)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}
