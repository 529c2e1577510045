//! Files out of a ZIP or a TAR. Nothing is ever written to a disk; names are labels. What is unpacked is bounded before it is.

use std::io::{Cursor, Read};
use std::path::{Component, Path};

use bytes::Bytes;
use flate2::read::GzDecoder;
use tar::EntryType;
use zip::ZipArchive;

/// What an archive may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Files.
    pub files: usize,
    /// Bytes of all of them, unpacked.
    pub bytes: usize,
}

/// Why an archive is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is damaged, or of a kind that is not read here.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// A name that leads out of the archive, or a link.
    #[error("the archive holds {0:?}, which is no plain file below its top")]
    Unsafe(String),
    /// More than [`Bounds`] allow.
    #[error("the archive holds more than {0}")]
    TooMuch(String),
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

/// The files of an archive with their names, in the archive's order. What programs for archives add (folders, `.DS_Store`,
/// `__MACOSX`) is left out.
pub fn unpack(body: &Bytes, format: Format, bounds: Bounds) -> Result<Vec<(String, Bytes)>, ArchiveError> {
    let mut files = Files { bounds, left: bounds.bytes, found: Vec::new() };
    match format {
        Format::Zip => files.read_zip(body)?,
        Format::Tar => files.read_tar(&body[..])?,
        Format::TarGz => files.read_tar(GzDecoder::new(&body[..]))?,
    }
    Ok(files.found)
}

struct Files {
    bounds: Bounds,
    left: usize,
    found: Vec<(String, Bytes)>,
}

impl Files {
    fn read_zip(&mut self, body: &[u8]) -> Result<(), ArchiveError> {
        let mut archive = ZipArchive::new(Cursor::new(body)).map_err(unreadable)?;
        for place in 0..archive.len() {
            let file = archive.by_index(place).map_err(unreadable)?;
            let name = file.name().map_err(unreadable)?.into_owned();
            if file.is_symlink() {
                return Err(ArchiveError::Unsafe(shortened(&name)));
            }
            if !file.is_dir() {
                self.take(&name, file)?;
            }
        }
        Ok(())
    }

    fn read_tar(&mut self, body: impl Read) -> Result<(), ArchiveError> {
        // Headers count as well: an archive can be endless without holding a file.
        let bounded = body.take(self.bounds.bytes as u64 + (self.bounds.files as u64 + 2) * 4096);
        let mut archive = tar::Archive::new(bounded);
        for entry in archive.entries().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => self.take(&name, entry)?,
                EntryType::Directory | EntryType::XGlobalHeader => {}
                _ => return Err(ArchiveError::Unsafe(shortened(&name))),
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str, file: impl Read) -> Result<(), ArchiveError> {
        let path = Path::new(name);
        if name.contains('\\')
            || !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(ArchiveError::Unsafe(shortened(name)));
        }
        let hidden =
            |part: Component<'_>| part.as_os_str().to_str().is_some_and(|part| part.starts_with('.') && part != ".");
        if path.starts_with("__MACOSX") || path.components().any(hidden) {
            return Ok(());
        }
        if self.found.len() == self.bounds.files {
            return Err(ArchiveError::TooMuch(format!("{} files", self.bounds.files)));
        }
        let mut bytes = Vec::new();
        file.take(self.left as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            return Err(ArchiveError::TooMuch(format!("{} bytes", self.bounds.bytes)));
        };
        self.left = left;
        self.found.push((name.trim_start_matches("./").to_owned(), bytes.into()));
        Ok(())
    }
}

fn unreadable(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Unreadable(shortened(&error.to_string()))
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const BOUNDS: Bounds = Bounds { files: 3, bytes: 1 << 20 };

    fn zip(files: &[(&str, &[u8])]) -> Bytes {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner().into()
    }

    fn tar(files: &[(&str, &[u8], EntryType)]) -> Bytes {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes, kind) in files {
            let mut header = tar::Header::new_ustar();
            // Past the builder's own check of names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_entry_type(*kind);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap().into()
    }

    fn read(body: &Bytes) -> Result<Vec<(String, Bytes)>, ArchiveError> {
        unpack(body, Format::of(body).unwrap(), BOUNDS)
    }

    #[test]
    fn files_come_in_their_order_without_what_programs_add() {
        let files: [(&str, &[u8]); 5] =
            [("b.png", b"2"), ("a/c.png", b"1"), ("__MACOSX/a", b"x"), (".DS_Store", b"x"), ("a/.hidden", b"x")];
        let names = |body: &Bytes| read(body).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&zip(&files)), ["b.png", "a/c.png"]);
        let entries: Vec<_> = files.iter().map(|(name, bytes)| (*name, *bytes, EntryType::Regular)).collect();
        let tarred = tar(&entries);
        assert_eq!(names(&tarred), ["b.png", "a/c.png"]);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&tarred).unwrap();
        assert_eq!(read(&gzip.finish().unwrap().into()).unwrap()[0], ("b.png".to_owned(), Bytes::from_static(b"2")));
    }

    #[test]
    fn names_that_lead_out_and_links_are_refused() {
        for name in ["../etc/passwd", "/etc/passwd", "a/../../b", "a\\..\\b"] {
            let refused = Err(ArchiveError::Unsafe(name.to_owned()));
            assert_eq!(read(&zip(&[(name, b"x")])), refused, "{name}");
            assert_eq!(read(&tar(&[(name, b"x", EntryType::Regular)])), refused, "{name}");
        }
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Block] {
            assert!(matches!(read(&tar(&[("a", b"", kind)])), Err(ArchiveError::Unsafe(_))), "{kind:?}");
        }
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused_before_it_is_all_there() {
        let bomb = zip(&[("bomb", &vec![0; 8 << 20])]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(read(&bomb), Err(ArchiveError::TooMuch("1048576 bytes".to_owned())));
        let many = zip(&[("1", b"x"), ("2", b"x"), ("3", b"x"), ("4", b"x")]);
        assert_eq!(read(&many), Err(ArchiveError::TooMuch("3 files".to_owned())));
    }

    #[test]
    fn a_damaged_archive_says_so() {
        let whole = zip(&[("a.png", b"1")]);
        assert!(matches!(read(&whole.slice(..whole.len() - 9)), Err(ArchiveError::Unreadable(_))));
        assert_eq!(Format::of(b"\x89PNG\r\n"), None);
    }
}
