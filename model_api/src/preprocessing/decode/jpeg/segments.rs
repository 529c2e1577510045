//! Marker segments of a JPEG file (ITU-T T.81, annex B): the end of the image, and its coding.
//!
//! Often more data follows the image: motion photos contain a video, MPO files contain further JPEGs, and some writers
//! add padding. The end is therefore found from the front, segment by segment. A search for the last end marker would find one
//! inside such a video.

/// End of image.
pub(super) const EOI: u8 = 0xD9;
/// Start of scan.
pub(super) const SOS: u8 = 0xDA;

/// Result of scanning a file's markers.
pub(super) struct MarkerSummary {
    /// Bytes up to and including the end marker. `None` where no end marker follows the last scan, or where something else
    /// follows it that is not valid there.
    pub end: Option<usize>,
    /// Marker and sample precision in bits of the frame.
    pub frame: Option<(u8, u8)>,
}

/// Walks the segments and scans of a file.
pub(super) fn scan_markers(bytes: &[u8]) -> MarkerSummary {
    let mut summary = MarkerSummary { end: None, frame: None };
    let (mut at, mut in_scan) = (2, false);
    while let Some((marker, after)) = next_marker(bytes, at) {
        at = after;
        match marker {
            EOI => {
                summary.end = Some(after);
                return summary;
            }
            0x01 | 0xD0..=0xD7 => continue,
            SOS => in_scan = true,
            _ if is_frame(marker) && summary.frame.is_none() => {
                summary.frame = bytes.get(after + 2).map(|precision| (marker, *precision));
            }
            // Between scans only tables, application data and comments are valid.
            0xC4 | 0xCC | 0xDB..=0xDD | 0xE0..=0xEF | 0xFE => {}
            _ if in_scan => return summary,
            _ => {}
        }
        let Some(body) = body(bytes, after) else { return summary };
        at += 2 + body.len();
    }
    summary
}

/// The next marker from `at` on, and the position after it. Skips stuffed zeros and bytes between segments, as all JPEG readers
/// do.
pub(super) fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += memchr::memchr(0xFF, bytes.get(at..)?)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xFF)?;
        let marker = bytes[at];
        at += 1;
        if marker != 0 {
            return Some((marker, at));
        }
    }
}

/// The content of a segment after its length, whose first byte is at `at`.
pub(super) fn body(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    bytes.get(at + 2..at + length.max(2))
}

/// Whether the marker is a start of frame (SOF).
pub(super) fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// Why this kind of frame is not supported; `None` for sequential and progressive Huffman coding with 8 bits.
pub(super) fn unsupported(frame: (u8, u8)) -> Option<&'static str> {
    match frame {
        (0xC9..=0xCB | 0xCD..=0xCF, _) => {
            Some("arithmetic-coded JPEG is not supported; save it as baseline JPEG or PNG")
        }
        (0xC3, _) => Some("lossless JPEG is not supported; save it as baseline JPEG or PNG"),
        (0xC5..=0xC7, _) => Some("hierarchical JPEG is not supported; save it as baseline JPEG or PNG"),
        (_, precision) if precision != 8 => {
            Some("JPEG with other than 8 bits per sample is not supported; save it with 8 bits, or as PNG")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start of image.
    const SOI: u8 = 0xD8;

    const HEAD: [u8; 30] = [
        0xFF, SOI, 0xFF, 0xE0, 0, 4, 0xFF, EOI, 0xFF, 0xC0, 0, 8, 8, 0, 1, 0, 1, 0, 0xFF, SOS, 0, 4, 1, 2, 5, 0xFF, 0,
        0xFF, 0xD0, 7,
    ];

    #[test]
    fn the_end_follows_the_scans_of_the_first_image() {
        let ended = [&HEAD[..], &[0xFF, 0xFF, EOI]].concat();
        for behind in [&[][..], &[0; 9], b"\0\0\0\x18ftypmp42\xFF\xDA\0\x04..", &[0xFF, SOI, 0xFF, SOS, 0xFF, EOI]] {
            let summary = scan_markers(&[&ended, behind].concat());
            assert_eq!((summary.end, summary.frame), (Some(ended.len()), Some((0xC0, 8))), "{behind:?}");
        }
    }

    #[test]
    fn a_file_without_an_end_marker_has_no_end() {
        for behind in [&[][..], &[0; 9], &[0xFF], &[0xFF, 0x12, 0, 2, 0xFF, EOI], &[0xFF, SOI, 0xFF, EOI]] {
            assert_eq!(scan_markers(&[&HEAD[..], behind].concat()).end, None, "{behind:?}");
        }
        for length in 0..HEAD.len() {
            assert_eq!(scan_markers(&HEAD[..length]).end, None);
        }
    }

    #[test]
    fn an_unsupported_coding_is_named() {
        for (frame, word) in
            [((0xC9, 8), "arithmetic"), ((0xC3, 8), "lossless"), ((0xC6, 8), "hierarch"), ((0xC1, 12), "8 bits")]
        {
            assert!(unsupported(frame).unwrap().contains(word));
        }
        assert_eq!([(0xC0, 8), (0xC1, 8), (0xC2, 8)].map(unsupported), [None; 3]);
    }
}
