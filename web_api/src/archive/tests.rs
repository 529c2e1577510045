use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use service::memory_budget::MemoryBudget;
use tar::EntryType;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const BOUNDS: Bounds = Bounds { inputs: 3, entries: 8, input_bytes: 1 << 20, bytes: 2 << 20 };

/// Names are changed after they were written: the writer would replace what programs on Windows write, and refuse equal ones.
fn zip(files: &[(&str, &[u8])]) -> Bytes {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (place, (name, bytes)) in files.iter().enumerate() {
        let placeholder = format!("{place:~<width$}", width = name.len());
        writer.start_file(&*placeholder, SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    let mut archive = writer.finish().unwrap().into_inner();
    for (place, (name, _)) in files.iter().enumerate() {
        replace(&mut archive, format!("{place:~<width$}", width = name.len()).as_bytes(), name.as_bytes());
    }
    archive.into()
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(old)).collect();
    assert_eq!(places.len(), 2, "a name stands before the data and in the directory");
    for at in places {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
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

fn regular(files: &[(&str, &[u8])]) -> Bytes {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, *bytes, EntryType::Regular)).collect();
    tar(&files)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn read_within(body: &Bytes, keep: Keep, bounds: Bounds) -> Result<Vec<Entry>, ArchiveError> {
    let mut budget = Budget::new(bounds, MemoryBudget::new(64 << 20).reservation(None));
    let mut archive = Archive::open(body.clone(), Format::of(body).unwrap(), keep, &mut budget)?;
    let mut entries = Vec::new();
    while let Some(entry) = archive.next(keep, &mut budget)? {
        entries.push(entry);
    }
    Ok(entries)
}

fn read(body: &Bytes, keep: Keep) -> Result<Vec<Entry>, ArchiveError> {
    read_within(body, keep, BOUNDS)
}

/// In brief: a skipped file's name is in brackets.
fn names(body: &Bytes, keep: Keep) -> Vec<String> {
    let name = |entry| match entry {
        Entry::Input(name, _) => name,
        Entry::Skipped(name) => format!("[{name}]"),
    };
    read(body, keep).unwrap().into_iter().map(name).collect()
}

#[test]
fn files_come_in_their_order_and_what_programs_add_is_skipped() {
    let files: [(&str, &[u8]); 5] =
        [("b.png", b"2"), ("a/c.png", b"1"), ("__MACOSX/a", b"x"), (".DS_Store", b"x"), ("a/.hidden", b"x")];
    let expected = ["b.png", "a/c.png", "[__MACOSX/a]", "[.DS_Store]", "[a/.hidden]"];
    for keep in [Keep::Images, Keep::All] {
        assert_eq!(names(&zip(&files), keep), expected);
        assert_eq!(names(&regular(&files), keep), expected);
        assert_eq!(names(&gzip(&regular(&files)).into(), keep), expected);
    }
    let data = |body: &Bytes| read(body, Keep::All).unwrap().swap_remove(1);
    assert_eq!(data(&zip(&files)), Entry::Input("a/c.png".to_owned(), Bytes::from_static(b"1")));
    assert_eq!(data(&regular(&files)), Entry::Input("a/c.png".to_owned(), Bytes::from_static(b"1")));
}

#[test]
fn files_that_are_no_images_are_skipped_where_images_are_wanted() {
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
    assert_eq!(names(&zip(&files), Keep::Images), expected);
    assert_eq!(names(&regular(&files), Keep::Images), expected);
    assert_eq!(names(&zip(&files[..2]), Keep::All), ["Thumbs.db", "no-extension"]);
}

#[test]
fn a_backslash_separates_folders() {
    let files: [(&str, &[u8]); 3] = [("photos\\", b""), ("photos\\a.png", PNG), (".\\photos\\\\sub\\b.png", PNG)];
    assert_eq!(names(&zip(&files), Keep::Images), ["photos/a.png", "photos/sub/b.png"]);
    assert_eq!(names(&regular(&files[1..]), Keep::Images), ["photos/a.png", "photos/sub/b.png"]);
}

#[test]
fn files_of_one_name_are_all_read() {
    let files: [(&str, &[u8]); 3] = [("a.png", b"1"), ("a.png", b"22"), ("a.png", b"333")];
    for body in [zip(&files), regular(&files)] {
        let lengths: Vec<usize> = read(&body, Keep::Images)
            .unwrap()
            .iter()
            .map(|entry| if let Entry::Input(_, bytes) = entry { bytes.len() } else { 0 })
            .collect();
        assert_eq!(lengths, [1, 2, 3]);
    }
}

#[test]
fn names_that_lead_out_and_links_are_refused() {
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
        assert_eq!(read(&zip(&[(name, b"x")]), Keep::Images), refused, "{name}");
        assert_eq!(read(&regular(&[(name, b"x")]), Keep::Images), refused, "{name}");
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Block] {
        assert!(matches!(read(&tar(&[("a", b"", kind)]), Keep::Images), Err(ArchiveError::Unsafe(_))), "{kind:?}");
    }
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("a.png", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let link = writer.finish().unwrap().into_inner().into();
    assert_eq!(read(&link, Keep::Images), Err(ArchiveError::Unsafe("a.png".to_owned())));
}

#[test]
fn what_unpacks_to_too_much_is_refused_before_it_is_all_there() {
    let zeros = vec![0; 8 << 20];
    let large = Err(ArchiveError::TooMuch("2097152 bytes, unpacked".to_owned()));
    for (name, keep) in [("bomb.png", Keep::Images), ("bomb", Keep::All)] {
        let bomb = zip(&[(name, &zeros)]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(read(&bomb, keep), Err(ArchiveError::EntryTooLarge(name.to_owned(), 1 << 20)));
        assert_eq!(read(&gzip(&regular(&[(name, &zeros)])).into(), keep), large);
        let mebibyte = &zeros[..1 << 20];
        let three = [(name, mebibyte), (name, mebibyte), (name, mebibyte)];
        assert_eq!(read(&zip(&three), keep), large);
        assert_eq!(read(&gzip(&regular(&three)).into(), keep), large);
    }
    // Skipped files are unpacked as well, where the format has no directory.
    let endless: Bytes = gzip(&regular(&[("notes", &zeros)])).into();
    assert_eq!(read(&endless, Keep::Images), large);
    assert_eq!(names(&zip(&[("notes", &zeros)]), Keep::Images), ["[notes]"]);

    let one = vec![0; (1 << 20) + 1];
    let too_large = Err(ArchiveError::EntryTooLarge("a.png".to_owned(), 1 << 20));
    for body in [zip(&[("a.png", &one)]), regular(&[("a.png", &one)])] {
        assert_eq!(read(&body, Keep::Images), too_large);
    }
    let tight: [(&str, &[u8]); 2] = [("a.png", &zeros), ("b.png", &zeros)];
    let wide = Bounds { input_bytes: 8 << 20, bytes: 32 << 20, ..BOUNDS };
    assert_eq!(read_within(&zip(&tight), Keep::Images, wide), Err(ArchiveError::Ratio(16 << 20)));
    assert_eq!(read_within(&zip(&tight[..1]), Keep::Images, wide).unwrap().len(), 1);

    let many: Vec<(&str, &[u8])> = vec![("1.png", b"x"); 4];
    let many_entries: Vec<(&str, &[u8])> = vec![("notes", b"x"); 9];
    for (files, words) in [(many, "3 files"), (many_entries, "8 entries")] {
        for body in [zip(&files), regular(&files)] {
            assert_eq!(read(&body, Keep::Images), Err(ArchiveError::TooMuch(words.to_owned())));
        }
    }
}

#[test]
fn gzip_of_several_members_is_one_archive() {
    let tarred = regular(&[("a.png", PNG), ("b.png", &[7; 3000])]);
    for cut in [1, 512, 700, tarred.len() - 1] {
        let members = [gzip(&tarred[..cut]), gzip(b""), gzip(&tarred[cut..])].concat();
        assert_eq!(names(&members.into(), Keep::Images), ["a.png", "b.png"], "{cut}");
    }
}

#[test]
fn an_entry_that_is_not_read_is_named() {
    let plain = zip(&[("a.png", PNG)]);
    // Flags and method stand 6 and 8 bytes behind a local header's beginning, 8 and 10 behind a central one's.
    let with = |flags: u8, method: u8| {
        let mut archive = plain.to_vec();
        let central = (0..archive.len()).find(|&at| archive[at..].starts_with(b"PK\x01\x02")).unwrap();
        for (flags_at, method_at) in [(6, 8), (central + 8, central + 10)] {
            archive[flags_at] |= flags;
            archive[method_at] = method;
        }
        read(&archive.into(), Keep::Images).unwrap_err().to_string()
    };
    assert_eq!(with(1, 8), "the archive's entry \"a.png\" is encrypted; send it without a password");
    for (method, name) in [(9, "Deflate64"), (12, "Bzip2"), (93, "Zstd")] {
        let words = format!(
            "the archive's entry \"a.png\" is compressed with {name}; only Deflate and stored entries are read"
        );
        assert_eq!(with(0, method), words);
    }
}

#[test]
fn zip64_is_read() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("a.png", SimpleFileOptions::default().large_file(true)).unwrap();
    writer.write_all(PNG).unwrap();
    assert_eq!(names(&writer.finish().unwrap().into_inner().into(), Keep::Images), ["a.png"]);
}

#[test]
fn a_damaged_archive_says_so() {
    let whole = zip(&[("a.png", b"1")]);
    assert!(matches!(read(&whole.slice(..whole.len() - 9), Keep::Images), Err(ArchiveError::Unreadable(_))));
    let mut changed = whole.to_vec();
    let data = (0..changed.len()).find(|&at| changed[at..].starts_with(b"a.png")).unwrap() + 5;
    changed[data] ^= 0xff;
    let damaged = read(&changed.into(), Keep::Images);
    assert!(matches!(&damaged, Err(ArchiveError::Damaged(name, _)) if name == "a.png"), "{damaged:?}");
    let tarred = regular(&[("a.png", &[1; 2000])]);
    assert!(matches!(read(&tarred.slice(..900), Keep::Images), Err(ArchiveError::Damaged(..))));
    let skipped = regular(&[("notes", &[1; 1024])]);
    let cut = read(&skipped.slice(..1000), Keep::Images);
    assert_eq!(cut, Err(ArchiveError::Damaged("notes".to_owned(), "it ends early".to_owned())));
    assert_eq!(Format::of(PNG), None);
}
