//! File type detection for submissions: image files, and files of operating systems.

/// Number of bytes at the beginning of a file that [`is_image`] inspects.
pub const HEAD_BYTES: u64 = 32;

/// Extensions of image files. `static/folders.js` has the same list.
///
/// HEIC, AVIF and JPEG XL cannot be decoded. Such a file is an input all the same, so that it fails with that reason instead of being
/// skipped.
const IMAGE_EXTENSIONS: [&str; 20] = [
    "avif", "bmp", "dib", "gif", "heic", "heif", "jfif", "jpe", "jpeg", "jpg", "jxl", "pam", "pbm", "pgm", "png",
    "pnm", "ppm", "tif", "tiff", "webp",
];

/// Extensions of documents, programs and data files that have the ZIP format.
const ZIP_BASED_EXTENSIONS: [&str; 20] = [
    "3mf", "apk", "docm", "docx", "epub", "ipa", "jar", "key", "kmz", "npz", "numbers", "odg", "odp", "ods", "odt",
    "pages", "pptx", "whl", "xlsm", "xlsx",
];

/// Files that Windows and macOS create in folders.
const SYSTEM_FILES: [&str; 5] = ["desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r", "thumbs.db"];

/// Folders that Windows and Synology file servers create. Synology stores thumbnails in `@eaDir`.
const SYSTEM_FOLDERS: [&str; 3] = ["$recycle.bin", "@eadir", "system volume information"];

/// Whether a file that begins with `head` is in an image format that `model_api` decodes.
pub fn is_image(head: &[u8]) -> bool {
    match head {
        // PNG, JPEG, GIF, WebP; TIFF and BigTIFF in either byte order.
        [0x89, b'P', b'N', b'G', ..]
        | [0xff, 0xd8, 0xff, ..]
        | [b'G', b'I', b'F', b'8', ..]
        | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..]
        | [b'I', b'I', b'*' | b'+', 0, ..]
        | [b'M', b'M', 0, b'*' | b'+', ..] => true,
        [b'P', b'1'..=b'7', next, ..] => next.is_ascii_whitespace() || *next == b'#',
        // `BM` is also the beginning of ordinary text. The length of the second header distinguishes a bitmap.
        [b'B', b'M', ..] => matches!(head.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])),
        _ => false,
    }
}

/// Whether the file name has the extension of an image.
pub fn has_image_name(path: &str) -> bool {
    has_extension(path, &IMAGE_EXTENSIONS)
}

/// Whether the file name has the extension of a format that is based on ZIP, so that it is not an archive of images.
pub fn is_zip_based(path: &str) -> bool {
    has_extension(path, &ZIP_BASED_EXTENSIONS)
}

/// Whether the file is hidden, or metadata of macOS.
pub fn is_hidden(path: &str) -> bool {
    parts(path).any(|part| part == "__MACOSX" || part.starts_with('.') && !matches!(part, "." | ".."))
}

/// Whether the file belongs to an operating system.
pub fn is_system_file(path: &str) -> bool {
    let is_in = |part: &str, list: &[&str]| list.iter().any(|each| part.eq_ignore_ascii_case(each));
    parts(path).any(|part| is_in(part, &SYSTEM_FOLDERS))
        || parts(path).last().is_some_and(|name| is_in(name, &SYSTEM_FILES))
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split(['/', '\\'])
}

fn has_extension(path: &str, list: &[&str]) -> bool {
    let name = parts(path).last().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, extension)| list.iter().any(|each| extension.eq_ignore_ascii_case(each)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_detected_by_their_content() {
        let bitmap = [b"BM".as_slice(), &[0; 12], &40_u32.to_le_bytes()].concat();
        for head in [
            b"\x89PNG\r\n\x1a\n".as_slice(),
            b"\xff\xd8\xff\xe0",
            b"GIF89a",
            b"II*\0",
            b"MM\0+",
            b"RIFF\x10\0\0\0WEBPVP8 ",
            b"P5\n2 2",
            b"P2#comment",
            &bitmap,
        ] {
            assert!(is_image(head), "{head:?}");
        }
        for head in [
            b"".as_slice(),
            b"P",
            b"PK\x03\x04",
            b"P5",
            b"P90",
            b"BMW, Audi, Volkswagen",
            b"RIFF\x10\0\0\0AVI ",
            b"%PDF",
            b"\xd0\xcf\x11\xe0",
        ] {
            assert!(!is_image(head), "{head:?}");
        }
    }

    #[test]
    fn names_distinguish_images_documents_and_system_files() {
        for name in ["a.png", "deep/B.JPG", "x.heic", "a.b.tiff"] {
            assert!(has_image_name(name), "{name}");
        }
        for name in ["README", "png", "notes.txt", "a.png.txt", "folder.png/notes"] {
            assert!(!has_image_name(name), "{name}");
        }
        assert!(is_zip_based("report.DOCX") && !is_zip_based("images.zip"));
        for name in ["Thumbs.db", "deep/desktop.ini", "a\\THUMBS.DB", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg"] {
            assert!(is_system_file(name) && !is_hidden(name), "{name}");
        }
        for name in [".DS_Store", "__MACOSX/._a.png", "a/.hidden/b.png"] {
            assert!(is_hidden(name), "{name}");
        }
        for name in ["./a.png", "../a.png", "thumbs.db.png", "a"] {
            assert!(!is_hidden(name) && !is_system_file(name), "{name}");
        }
    }
}
