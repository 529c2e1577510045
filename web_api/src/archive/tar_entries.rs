use std::io::{self, Cursor, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use service::memory_budget::Reservation;
use tar::EntryType;

use super::{
    ArchiveError, Budget, DECODER_BYTES, ENDS_EARLY, Entry, Keep, is_skipped_by_name, plain_path, read_entry,
    shortened, unreadable,
};
use crate::image_files::HEAD_BYTES;

/// Entries and their headers stand in blocks of this length.
const BLOCK: u64 = 512;

/// Headers of one entry, with a long name.
const HEADER_BYTES: u64 = 4096;

/// Bytes of a header that describes the next entry: a long name, or PAX records. `tar` would read one of any length.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// The files of a TAR, which may be packed with gzip.
pub struct TarEntries {
    /// Bounded: what is skipped is unpacked as well, and headers without end hold no file.
    tar: io::Take<Box<dyn Read + Send>>,
    /// For what unpacks it.
    _memory: Reservation,
}

/// What headers before an entry say of it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarEntries {
    pub(super) fn plain(body: Bytes, budget: &Budget) -> Result<Self, ArchiveError> {
        Self::new(Box::new(Cursor::new(body)), budget)
    }

    /// Of one gzip member or several, as `pigz`, `bgzip` and `cat` write them.
    pub(super) fn packed(body: Bytes, budget: &Budget) -> Result<Self, ArchiveError> {
        Self::new(Box::new(MultiGzDecoder::new(Cursor::new(body))), budget)
    }

    fn new(tar: Box<dyn Read + Send>, budget: &Budget) -> Result<Self, ArchiveError> {
        let mut memory = budget.memory.sibling();
        memory.reserve(DECODER_BYTES + MAX_EXTENSION_BYTES as usize)?;
        let headers = (budget.bounds.entries as u64).saturating_mul(HEADER_BYTES);
        Ok(Self { tar: tar.take(budget.bounds.bytes.saturating_add(headers)), _memory: memory })
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
        let mut extensions = Extensions::default();
        loop {
            // Each time an archive of its own, which begins with the next header: an iterator over all would borrow the first.
            let mut archive = tar::Archive::new(&mut self.tar);
            let Some(entry) = archive.entries().map_err(unreadable)?.raw(true).next() else { return Ok(None) };
            let mut entry = entry.map_err(unreadable)?;
            let size = entry.size();
            let found = if extensions.read(&mut entry)? {
                None
            } else {
                budget.count_entry()?;
                let Extensions { name, size: said } = std::mem::take(&mut extensions);
                if said.is_some_and(|said| said != size) {
                    return Err(unreadable("an entry's PAX records and its header say different sizes"));
                }
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                read_file(&String::from_utf8_lossy(&name), &mut entry, keep, budget)?
            };
            let rest = io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
            // An input has been read to its end, a skipped file at most for its first bytes.
            if let Some(Entry::Skipped(name)) = &found
                && rest + HEAD_BYTES.min(size) < size
            {
                return Err(ArchiveError::Damaged(shortened(name), ENDS_EARLY.to_owned()));
            }
            let padding = size.next_multiple_of(BLOCK) - size;
            io::copy(&mut self.tar.by_ref().take(padding), &mut io::sink()).map_err(unreadable)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

impl Extensions {
    /// Whether `entry` describes the next one. Its words are read then, but not those of a link's target: links are refused.
    fn read(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, ArchiveError> {
        let kind = entry.header().entry_type();
        let (is_name, is_pax) = (kind == EntryType::GNULongName, kind == EntryType::XHeader);
        if !is_name && !is_pax {
            return Ok(matches!(kind, EntryType::GNULongLink | EntryType::XGlobalHeader));
        }
        let size = entry.size();
        if size > MAX_EXTENSION_BYTES {
            let words =
                format!("a name, or what describes an entry, has {size} bytes, more than {MAX_EXTENSION_BYTES}");
            return Err(unreadable(words));
        }
        let mut words = Vec::with_capacity(size as usize);
        entry.read_to_end(&mut words).map_err(unreadable)?;
        if words.len() as u64 != size {
            return Err(unreadable(ENDS_EARLY));
        }
        if is_name {
            let length = words.iter().position(|&byte| byte == 0).unwrap_or(words.len());
            words.truncate(length);
            self.name = Some(words);
            return Ok(true);
        }
        for record in tar::PaxExtensions::new(&words) {
            let record = record.map_err(unreadable)?;
            match record.key_bytes() {
                b"path" => self.name = Some(record.value_bytes().to_vec()),
                b"size" => self.size = Some(record.value().ok().and_then(|size| size.parse().ok()).unwrap_or(u64::MAX)),
                _ => {}
            }
        }
        Ok(true)
    }
}

/// `None` for a folder.
fn read_file(
    name: &str,
    entry: &mut tar::Entry<'_, impl Read>,
    keep: Keep,
    budget: &mut Budget,
) -> Result<Option<Entry>, ArchiveError> {
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {}
        EntryType::Directory => return Ok(None),
        _ => return Err(ArchiveError::Unsafe(shortened(name))),
    }
    let path = plain_path(name)?;
    // The oldest format marks folders by their names alone.
    if name.ends_with('/') {
        return Ok(None);
    }
    if is_skipped_by_name(&path, keep) {
        return Ok(Some(Entry::Skipped(path)));
    }
    let size = entry.size();
    read_entry(path, size, entry, keep, budget).map(Some)
}
