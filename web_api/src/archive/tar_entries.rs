use std::io::{self, Cursor, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use service::memory_budget::Reservation;
use tar::EntryType;

use super::file_type::HEAD_BYTES;
use super::{
    ArchiveEntry, ArchiveError, Budget, DECODER_BYTES, ENDS_EARLY, FileFilter, is_skipped_by_name, normalized_path,
    read_entry, shortened, unreadable,
};

/// Block size of the TAR format: entries and headers are padded to it.
const BLOCK_BYTES: u64 = 512;

/// Allowance for the headers of one entry, including a long name, in bytes.
const HEADER_BYTES: u64 = 4096;

/// Maximum size of an extension header (long name or PAX records) in bytes. The `tar` crate has no limit of its own.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// Files of a TAR, which may be compressed with gzip.
pub struct TarEntries {
    /// Limited, because skipped files are unpacked, too, and a stream of headers has no end without any file.
    tar: io::Take<Box<dyn Read + Send>>,
    /// Reservation for the decoder.
    _memory: Reservation,
}

/// Extension headers of the next entry.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarEntries {
    pub(super) fn open(body: Bytes, budget: &Budget) -> Result<Self, ArchiveError> {
        Self::new(Box::new(Cursor::new(body)), budget)
    }

    /// Opens a gzip with one or several members. `pigz`, `bgzip` and `cat` write several.
    pub(super) fn open_gzip(body: Bytes, budget: &Budget) -> Result<Self, ArchiveError> {
        Self::new(Box::new(MultiGzDecoder::new(Cursor::new(body))), budget)
    }

    fn new(tar: Box<dyn Read + Send>, budget: &Budget) -> Result<Self, ArchiveError> {
        let mut memory = budget.memory.sibling();
        memory.reserve(DECODER_BYTES + MAX_EXTENSION_BYTES as usize)?;
        let headers = (budget.limits.max_entries as u64).saturating_mul(HEADER_BYTES);
        Ok(Self { tar: tar.take(budget.limits.max_bytes.saturating_add(headers)), _memory: memory })
    }

    pub(super) fn next(
        &mut self,
        filter: FileFilter,
        budget: &mut Budget,
    ) -> Result<Option<ArchiveEntry>, ArchiveError> {
        let found = self.find_file(filter, budget);
        match found {
            Err(ArchiveError::Unreadable(_) | ArchiveError::Damaged(..)) if self.tar.limit() == 0 => {
                Err(budget.too_many_bytes())
            }
            found => found,
        }
    }

    fn find_file(&mut self, filter: FileFilter, budget: &mut Budget) -> Result<Option<ArchiveEntry>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            // A new `tar::Archive` per entry starts at the next header. One iterator over all entries would be self-referential.
            let mut archive = tar::Archive::new(&mut self.tar);
            let Some(entry) = archive.entries().map_err(unreadable)?.raw(true).next() else { return Ok(None) };
            let mut entry = entry.map_err(unreadable)?;
            let size = entry.size();
            let found = if extensions.read(&mut entry)? {
                None
            } else {
                budget.count_entry()?;
                let Extensions { name, size: pax_size } = std::mem::take(&mut extensions);
                if pax_size.is_some_and(|pax_size| pax_size != size) {
                    return Err(unreadable("an entry's PAX records and its header have different sizes"));
                }
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                read_file(&String::from_utf8_lossy(&name), &mut entry, filter, budget)?
            };
            let rest = io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
            // An input has been read completely. Of a skipped file at most the first bytes have been read, so the rest must be here.
            if let Some(ArchiveEntry::Skipped(name)) = &found
                && rest + HEAD_BYTES.min(size) < size
            {
                return Err(ArchiveError::Damaged(shortened(name), ENDS_EARLY.to_owned()));
            }
            let padding = size.next_multiple_of(BLOCK_BYTES) - size;
            io::copy(&mut self.tar.by_ref().take(padding), &mut io::sink()).map_err(unreadable)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

impl Extensions {
    /// Reads `entry` if it is an extension header, and returns whether it is one. The target of a link is not read, because links
    /// are rejected.
    fn read(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, ArchiveError> {
        let kind = entry.header().entry_type();
        let (is_name, is_pax) = (kind == EntryType::GNULongName, kind == EntryType::XHeader);
        if !is_name && !is_pax {
            return Ok(matches!(kind, EntryType::GNULongLink | EntryType::XGlobalHeader));
        }
        let size = entry.size();
        if size > MAX_EXTENSION_BYTES {
            let reason = format!("an extension header has {size} bytes, more than {MAX_EXTENSION_BYTES}");
            return Err(unreadable(reason));
        }
        let mut content = Vec::with_capacity(size as usize);
        entry.read_to_end(&mut content).map_err(unreadable)?;
        if content.len() as u64 != size {
            return Err(unreadable(ENDS_EARLY));
        }
        if is_name {
            let length = content.iter().position(|&byte| byte == 0).unwrap_or(content.len());
            content.truncate(length);
            self.name = Some(content);
            return Ok(true);
        }
        for record in tar::PaxExtensions::new(&content) {
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

/// Reads one file. Returns `None` for a folder.
fn read_file(
    name: &str,
    entry: &mut tar::Entry<'_, impl Read>,
    filter: FileFilter,
    budget: &mut Budget,
) -> Result<Option<ArchiveEntry>, ArchiveError> {
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {}
        EntryType::Directory => return Ok(None),
        _ => return Err(ArchiveError::Unsafe(shortened(name))),
    }
    let path = normalized_path(name)?;
    // The oldest TAR format marks a folder only by a slash at the end of its name.
    if name.ends_with('/') {
        return Ok(None);
    }
    if is_skipped_by_name(&path, filter) {
        return Ok(Some(ArchiveEntry::Skipped(path)));
    }
    let size = entry.size();
    read_entry(path, size, entry, filter, budget).map(Some)
}
