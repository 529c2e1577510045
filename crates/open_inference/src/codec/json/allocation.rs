//! Estimate of the memory that parsing a JSON request allocates besides tensor data. Known before parsing, so that it
//! can be reserved.

use memchr::{memchr, memchr_iter, memchr2_iter};

use crate::blocking_pool::INLINE_BYTES;

/// A parameter in its map, or the metadata of a tensor.
const MEMBER_BYTES: usize = 128;

/// Size of the parser's scratch buffer as a multiple of an escaped string. The buffer doubles as it grows.
const SCRATCH_FACTOR: usize = 3;

/// Maximum number of bytes that parsing allocates for names and parameters. Zero for short documents: they are parsed
/// inline, one at a time per core, which bounds their memory.
pub(crate) fn estimate(json: &[u8]) -> usize {
    if json.len() <= INLINE_BYTES {
        return 0;
    }
    // The colon of a member follows a quote or whitespace. Colons in texts and dates mostly do not.
    let is_member = |&at: &usize| matches!(json.get(at.wrapping_sub(1)), Some(b'"' | b' ' | b'\t' | b'\r' | b'\n'));
    let members = memchr_iter(b':', json).filter(is_member).count();
    members * MEMBER_BYTES + SCRATCH_FACTOR * longest_escaped_string(json)
}

/// Length of the longest string that contains an escape.
fn longest_escaped_string(json: &[u8]) -> usize {
    if memchr(b'\\', json).is_none() {
        return 0;
    }
    let (mut longest, mut start, mut is_escaped, mut escaped_position) = (0, None, false, None);
    for at in memchr2_iter(b'"', b'\\', json) {
        if escaped_position.take() == Some(at) {
            continue;
        }
        match (json[at], start) {
            (b'"', None) => (start, is_escaped) = (Some(at), false),
            (b'"', Some(first)) => {
                if is_escaped {
                    longest = longest.max(at - first);
                }
                start = None;
            }
            (_, Some(_)) => (is_escaped, escaped_position) = (true, Some(at + 1)),
            // Invalid JSON.
            (_, None) => {}
        }
    }
    // An unterminated string is read to the end before it is rejected.
    start.filter(|_| is_escaped).map_or(longest, |first| longest.max(json.len() - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_escaped_string_is_found() {
        for (text, longest) in [
            (r#"{"abc": "de"}"#, 0),
            (r#"{"a\n": "b"}"#, 4),
            (r#"["a\"b\\", "longer than the others"]"#, 7),
            (r#"["a", "b\\"]"#, 4),
            (r#"["a\n"#, 4),
        ] {
            assert_eq!(longest_escaped_string(text.as_bytes()), longest, "{text}");
        }
    }

    #[test]
    fn members_are_counted_but_colons_in_strings_are_not() {
        let times = |text: &str| estimate(text.repeat(INLINE_BYTES / text.len() + 1).as_bytes());
        assert_eq!(times("\"2024-01-01T10:00:00Z\","), 0);
        assert!(times("\"a\":1,") >= INLINE_BYTES / 6 * MEMBER_BYTES);
        assert!(times("\"a\" :1,") >= INLINE_BYTES / 7 * MEMBER_BYTES);
        assert_eq!(estimate(b"{\"a\": 1}"), 0);
    }
}
