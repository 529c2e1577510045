//! Decompresses a TIFF with Zstandard to an uncompressed copy.
//!
//! The `tiff` crate needs a C library for Zstandard. Here, `ruzstd` decompresses every strip or tile and appends it to a copy of
//! the file with changed tags. The tags about samples and predictors apply to the copy as well.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use super::directory::Directory;

/// The value of `Compression` for Zstandard.
pub(super) const ZSTD: u16 = 50_000;

const COMPRESSION: u16 = 259;
/// Tags of offsets and lengths, of strips and of tiles.
const CHUNKS: [(u16, u16); 2] = [(273, 279), (324, 325)];

/// Maximum memory of a window, beside the decompressed data. The levels of `libtiff` need at most 8 MiB.
const WINDOW_BYTES: u64 = 16 << 20;

/// Why there is no copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Damaged,
    /// The copy would exceed the limit; the value is its number of bytes.
    TooLarge(u64),
}

/// The copy, of at most `limit` bytes. `None` for a file with another compression.
pub(super) fn decompress(bytes: &[u8], limit: u64) -> Option<Result<Vec<u8>, Failed>> {
    let directory = Directory::find(bytes)?;
    let (low, compression) = directory.short(COMPRESSION)?;
    (compression == ZSTD).then(|| copy(bytes, &directory, low, limit))
}

fn copy(bytes: &[u8], directory: &Directory, compression: usize, limit: u64) -> Result<Vec<u8>, Failed> {
    let tags = CHUNKS.into_iter().find(|&(starts, _)| directory.entry(starts).is_some()).ok_or(Failed::Damaged)?;
    let numbers = |tag| directory.numbers(tag).ok_or(Failed::Damaged);
    let (starts, lengths) = (numbers(tags.0)?, numbers(tags.1)?);
    let mut file = bytes.to_vec();
    let (mut new_starts, mut new_lengths) = (Vec::new(), Vec::new());
    for (start, length) in starts.into_iter().zip(lengths) {
        let range = usize::try_from(start).ok().zip(usize::try_from(length).ok());
        let packed =
            range.and_then(|(start, length)| bytes.get(start..start.checked_add(length)?)).ok_or(Failed::Damaged)?;
        let decoder = StreamingDecoder::new_with_max_window_size(packed, WINDOW_BYTES).map_err(|_| Failed::Damaged)?;
        let position = file.len();
        let left = limit.saturating_sub(position as u64) + 1;
        decoder.take(left).read_to_end(&mut file).map_err(|_| Failed::Damaged)?;
        if file.len() as u64 > limit {
            return Err(Failed::TooLarge(file.len() as u64));
        }
        new_starts.push(position as u64);
        new_lengths.push((file.len() - position) as u64);
    }
    let offset = directory.offset_length();
    for (tag, values) in [(tags.0, new_starts), (tags.1, new_lengths)] {
        let entry = directory.entry(tag).ok_or(Failed::Damaged)?;
        let long = if directory.is_big { 16 } else { 4 };
        let mut value: Vec<u8> = values.iter().flat_map(|&value| directory.written(value, offset)).collect();
        if values.len() > 1 {
            let position = file.len() as u64;
            file.append(&mut value);
            value = directory.written(position, offset);
        }
        let change = [directory.written(long, 2), directory.written(values.len() as u64, offset), value].concat();
        file.get_mut(entry + 2..entry + 2 + change.len()).ok_or(Failed::Damaged)?.copy_from_slice(&change);
    }
    let low = if directory.is_little { compression + 1 } else { compression - 1 };
    (file[compression], file[low]) = (1, 0);
    Ok(file)
}
