use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use service::memory_budget::MemoryBudget;
use tar::EntryType;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const LIMITS: SubmissionLimits =
    SubmissionLimits { max_inputs: 3, max_entries: 8, max_input_bytes: 1 << 20, max_bytes: 2 << 20 };

/// Writes a ZIP with placeholder names, and then replaces the names: the writer normalizes backslashes and rejects duplicates.
fn zip(files: &[(&str, &[u8])]) -> Bytes {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (index, (name, bytes)) in files.iter().enumerate() {
        let placeholder = format!("{index:~<width$}", width = name.len());
        writer.start_file(&*placeholder, SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    let mut archive = writer.finish().unwrap().into_inner();
    for (index, (name, _)) in files.iter().enumerate() {
        replace(&mut archive, format!("{index:~<width$}", width = name.len()).as_bytes(), name.as_bytes());
    }
    archive.into()
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let offsets: Vec<usize> = (0..bytes.len()).filter(|&offset| bytes[offset..].starts_with(old)).collect();
    assert_eq!(offsets.len(), 2, "once in the local header and once in the directory");
    for offset in offsets {
        bytes[offset..offset + old.len()].copy_from_slice(new);
    }
}

fn tar(files: &[(&str, &[u8], EntryType)]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes, kind) in files {
        let mut header = tar::Header::new_ustar();
        // Written into the header directly, because the builder rejects such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_entry_type(*kind);
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap().into()
}

fn regular(files: &[(&str, &[u8])]) -> Bytes {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, *bytes, EntryType::Regular)).collect();
    tar(&files)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn read_within(body: &Bytes, filter: FileFilter, limits: SubmissionLimits) -> Result<Vec<ArchiveEntry>, ArchiveError> {
    let mut budget = Budget::new(limits, MemoryBudget::new(64 << 20).reservation(None));
    let mut archive = Archive::open(body.clone(), ArchiveFormat::detect(body).unwrap(), filter, &mut budget)?;
    let mut entries = Vec::new();
    while let Some(entry) = archive.next(filter, &mut budget)? {
        entries.push(entry);
    }
    Ok(entries)
}

fn read(body: &Bytes, filter: FileFilter) -> Result<Vec<ArchiveEntry>, ArchiveError> {
    read_within(body, filter, LIMITS)
}

/// Names of all entries. The name of a skipped file is in brackets.
fn names(body: &Bytes, filter: FileFilter) -> Vec<String> {
    let name = |entry| match entry {
        ArchiveEntry::Input(name, _) => name,
        ArchiveEntry::Skipped(name) => format!("[{name}]"),
    };
    read(body, filter).unwrap().into_iter().map(name).collect()
}

#[test]
fn entries_keep_their_order_and_hidden_files_are_skipped() {
    let files: [(&str, &[u8]); 5] =
        [("b.png", b"2"), ("a/c.png", b"1"), ("__MACOSX/a", b"x"), (".DS_Store", b"x"), ("a/.hidden", b"x")];
    let expected = ["b.png", "a/c.png", "[__MACOSX/a]", "[.DS_Store]", "[a/.hidden]"];
    for filter in [FileFilter::ImagesOnly, FileFilter::All] {
        assert_eq!(names(&zip(&files), filter), expected);
        assert_eq!(names(&regular(&files), filter), expected);
        assert_eq!(names(&gzip(&regular(&files)).into(), filter), expected);
    }
    let data = |body: &Bytes| read(body, FileFilter::All).unwrap().swap_remove(1);
    assert_eq!(data(&zip(&files)), ArchiveEntry::Input("a/c.png".to_owned(), Bytes::from_static(b"1")));
    assert_eq!(data(&regular(&files)), ArchiveEntry::Input("a/c.png".to_owned(), Bytes::from_static(b"1")));
}

#[test]
fn other_files_are_skipped_where_only_images_are_inputs() {
    let nested = zip(&[("a.png", PNG)]);
    let long = [b"long ".as_slice(); 200].concat();
    let files: [(&str, &[u8]); 7] = [
        ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
        ("no-extension", PNG),
        ("README", &long),
        ("empty.txt", b""),
        ("nested.zip", &nested),
        ("notes.png", b"a text"),
        ("empty.png", b""),
    ];
    let expected = ["[Thumbs.db]", "no-extension", "[README]", "[empty.txt]", "[nested.zip]", "notes.png", "empty.png"];
    assert_eq!(names(&zip(&files), FileFilter::ImagesOnly), expected);
    assert_eq!(names(&regular(&files), FileFilter::ImagesOnly), expected);
    assert_eq!(names(&zip(&files[..2]), FileFilter::All), ["Thumbs.db", "no-extension"]);
}

#[test]
fn a_backslash_is_a_path_separator() {
    let files: [(&str, &[u8]); 3] = [("photos\\", b""), ("photos\\a.png", PNG), (".\\photos\\\\sub\\b.png", PNG)];
    assert_eq!(names(&zip(&files), FileFilter::ImagesOnly), ["photos/a.png", "photos/sub/b.png"]);
    assert_eq!(names(&regular(&files[1..]), FileFilter::ImagesOnly), ["photos/a.png", "photos/sub/b.png"]);
}

#[test]
fn all_entries_with_the_same_name_are_read() {
    let files: [(&str, &[u8]); 3] = [("a.png", b"1"), ("a.png", b"22"), ("a.png", b"333")];
    for body in [zip(&files), regular(&files)] {
        let lengths: Vec<usize> = read(&body, FileFilter::ImagesOnly)
            .unwrap()
            .iter()
            .map(|entry| if let ArchiveEntry::Input(_, bytes) = entry { bytes.len() } else { 0 })
            .collect();
        assert_eq!(lengths, [1, 2, 3]);
    }
}

#[test]
fn paths_out_of_the_archive_and_links_are_rejected() {
    for name in [
        "../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "a\\..\\b",
        "..\\b",
        "\\b",
        "C:\\b",
        "c:/b",
        "\\\\host\\b",
        "a/..",
    ] {
        let refused = Err(ArchiveError::Unsafe(name.to_owned()));
        assert_eq!(read(&zip(&[(name, b"x")]), FileFilter::ImagesOnly), refused, "{name}");
        assert_eq!(read(&regular(&[(name, b"x")]), FileFilter::ImagesOnly), refused, "{name}");
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Block] {
        assert!(
            matches!(read(&tar(&[("a", b"", kind)]), FileFilter::ImagesOnly), Err(ArchiveError::Unsafe(_))),
            "{kind:?}"
        );
    }
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("a.png", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let link = writer.finish().unwrap().into_inner().into();
    assert_eq!(read(&link, FileFilter::ImagesOnly), Err(ArchiveError::Unsafe("a.png".to_owned())));
}

#[test]
fn an_archive_over_the_limits_is_rejected_before_it_is_unpacked() {
    let zeros = vec![0; 8 << 20];
    let large = Err(ArchiveError::TooMuch("2097152 bytes, unpacked".to_owned()));
    for (name, filter) in [("bomb.png", FileFilter::ImagesOnly), ("bomb", FileFilter::All)] {
        let bomb = zip(&[(name, &zeros)]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(read(&bomb, filter), Err(ArchiveError::EntryTooLarge(name.to_owned(), 1 << 20)));
        assert_eq!(read(&gzip(&regular(&[(name, &zeros)])).into(), filter), large);
        let mebibyte = &zeros[..1 << 20];
        let three = [(name, mebibyte), (name, mebibyte), (name, mebibyte)];
        assert_eq!(read(&zip(&three), filter), large);
        assert_eq!(read(&gzip(&regular(&three)).into(), filter), large);
    }
    // A TAR has no directory, so skipped files are unpacked, too.
    let endless: Bytes = gzip(&regular(&[("notes", &zeros)])).into();
    assert_eq!(read(&endless, FileFilter::ImagesOnly), large);
    assert_eq!(names(&zip(&[("notes", &zeros)]), FileFilter::ImagesOnly), ["[notes]"]);

    let one = vec![0; (1 << 20) + 1];
    let too_large = Err(ArchiveError::EntryTooLarge("a.png".to_owned(), 1 << 20));
    for body in [zip(&[("a.png", &one)]), regular(&[("a.png", &one)])] {
        assert_eq!(read(&body, FileFilter::ImagesOnly), too_large);
    }
    let tight: [(&str, &[u8]); 2] = [("a.png", &zeros), ("b.png", &zeros)];
    let wide = SubmissionLimits { max_input_bytes: 8 << 20, max_bytes: 32 << 20, ..LIMITS };
    assert_eq!(read_within(&zip(&tight), FileFilter::ImagesOnly, wide), Err(ArchiveError::Ratio(16 << 20)));
    assert_eq!(read_within(&zip(&tight[..1]), FileFilter::ImagesOnly, wide).unwrap().len(), 1);

    let many: Vec<(&str, &[u8])> = vec![("1.png", b"x"); 4];
    let many_entries: Vec<(&str, &[u8])> = vec![("notes", b"x"); 9];
    for (files, limit) in [(many, "3 files"), (many_entries, "8 entries")] {
        for body in [zip(&files), regular(&files)] {
            assert_eq!(read(&body, FileFilter::ImagesOnly), Err(ArchiveError::TooMuch(limit.to_owned())));
        }
    }
}

#[test]
fn gzip_members_form_one_archive() {
    let tarred = regular(&[("a.png", PNG), ("b.png", &[7; 3000])]);
    for cut in [1, 512, 700, tarred.len() - 1] {
        let members = [gzip(&tarred[..cut]), gzip(b""), gzip(&tarred[cut..])].concat();
        assert_eq!(names(&members.into(), FileFilter::ImagesOnly), ["a.png", "b.png"], "{cut}");
    }
}

#[test]
fn an_unsupported_entry_is_named() {
    let plain = zip(&[("a.png", PNG)]);
    // Offsets of flags and method: 6 and 8 in a local header, 8 and 10 in a central one.
    let with = |flags: u8, method: u8| {
        let mut archive = plain.to_vec();
        let central = (0..archive.len()).find(|&at| archive[at..].starts_with(b"PK\x01\x02")).unwrap();
        for (flags_at, method_at) in [(6, 8), (central + 8, central + 10)] {
            archive[flags_at] |= flags;
            archive[method_at] = method;
        }
        read(&archive.into(), FileFilter::ImagesOnly).unwrap_err().to_string()
    };
    assert_eq!(with(1, 8), "the archive's entry \"a.png\" is encrypted; send it without a password");
    for (method, name) in [(9, "Deflate64"), (12, "Bzip2"), (93, "Zstd")] {
        let message = format!(
            "the archive's entry \"a.png\" is compressed with {name}; only Deflate and stored entries are supported"
        );
        assert_eq!(with(0, method), message);
    }
}

#[test]
fn zip64_is_read() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("a.png", SimpleFileOptions::default().large_file(true)).unwrap();
    writer.write_all(PNG).unwrap();
    assert_eq!(names(&writer.finish().unwrap().into_inner().into(), FileFilter::ImagesOnly), ["a.png"]);
}

#[test]
fn a_damaged_archive_is_rejected() {
    let whole = zip(&[("a.png", b"1")]);
    assert!(matches!(read(&whole.slice(..whole.len() - 9), FileFilter::ImagesOnly), Err(ArchiveError::Unreadable(_))));
    let mut changed = whole.to_vec();
    let data = (0..changed.len()).find(|&at| changed[at..].starts_with(b"a.png")).unwrap() + 5;
    changed[data] ^= 0xff;
    let damaged = read(&changed.into(), FileFilter::ImagesOnly);
    assert!(matches!(&damaged, Err(ArchiveError::Damaged(name, _)) if name == "a.png"), "{damaged:?}");
    let tarred = regular(&[("a.png", &[1; 2000])]);
    assert!(matches!(read(&tarred.slice(..900), FileFilter::ImagesOnly), Err(ArchiveError::Damaged(..))));
    let skipped = regular(&[("notes", &[1; 1024])]);
    let cut = read(&skipped.slice(..1000), FileFilter::ImagesOnly);
    assert_eq!(cut, Err(ArchiveError::Damaged("notes".to_owned(), "it ends early".to_owned())));
    assert_eq!(ArchiveFormat::detect(PNG), None);
}
