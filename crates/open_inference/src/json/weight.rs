//! What reading a JSON request allocates beside its elements, known before it is read.

use memchr::{memchr, memchr_iter, memchr2_iter};

use crate::answer::LARGE;

/// A parameter in its map, and what belongs to a tensor.
const MEMBER_BYTES: usize = 128;

/// How many times its length a string with escapes takes in the parser's buffer, which doubles.
const SCRATCH: usize = 3;

/// Bytes that reading `json` allocates for names and parameters, at most. Nothing for short documents: these are read on the
/// threads of the cores, one at a time, so that what they take is bounded by the number of cores.
pub(crate) fn of_json(json: &[u8]) -> usize {
    if json.len() <= LARGE {
        return 0;
    }
    // A member's colon stands behind a quote or a space. Colons in texts and moments mostly do not.
    let is_member = |&at: &usize| matches!(json.get(at.wrapping_sub(1)), Some(b'"' | b' ' | b'\t' | b'\r' | b'\n'));
    let members = memchr_iter(b':', json).filter(is_member).count();
    members * MEMBER_BYTES + SCRATCH * longest_with_escapes(json)
}

/// The length of the longest string that has an escape.
fn longest_with_escapes(json: &[u8]) -> usize {
    if memchr(b'\\', json).is_none() {
        return 0;
    }
    let (mut longest, mut begin, mut has_escape, mut escaped_at) = (0, None, false, None);
    for at in memchr2_iter(b'"', b'\\', json) {
        if escaped_at.take() == Some(at) {
            continue;
        }
        match (json[at], begin) {
            (b'"', None) => (begin, has_escape) = (Some(at), false),
            (b'"', Some(first)) => {
                if has_escape {
                    longest = longest.max(at - first);
                }
                begin = None;
            }
            (_, Some(_)) => (has_escape, escaped_at) = (true, Some(at + 1)),
            // No JSON.
            (_, None) => {}
        }
    }
    // One that does not end is read to the end before it is refused.
    begin.filter(|_| has_escape).map_or(longest, |first| longest.max(json.len() - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_string_with_an_escape_counts() {
        for (text, longest) in [
            (r#"{"abc": "de"}"#, 0),
            (r#"{"a\n": "b"}"#, 4),
            (r#"["a\"b\\", "longer than the others"]"#, 7),
            (r#"["a", "b\\"]"#, 4),
            (r#"["a\n"#, 4),
        ] {
            assert_eq!(longest_with_escapes(text.as_bytes()), longest, "{text}");
        }
    }

    #[test]
    fn members_count_and_colons_in_texts_do_not() {
        let times = |text: &str| of_json(text.repeat(LARGE / text.len() + 1).as_bytes());
        assert_eq!(times("\"2024-01-01T10:00:00Z\","), 0);
        assert!(times("\"a\":1,") >= LARGE / 6 * MEMBER_BYTES);
        assert!(times("\"a\" :1,") >= LARGE / 7 * MEMBER_BYTES);
        assert_eq!(of_json(b"{\"a\": 1}"), 0);
    }
}
