//! Truncation of client input that error messages repeat: a short error must not echo a long request.

use std::fmt::{self, Display, Write};

/// Characters of a name in an error message.
const MAX_QUOTED_CHARS: usize = 64;

/// Bytes of a parser's error message.
const MAX_ERROR_BYTES: usize = 256;

/// A client's name in quotes, truncated where it is long.
pub(crate) fn quoted(name: &str) -> String {
    let start: String = name.chars().take(MAX_QUOTED_CHARS).collect();
    if start.len() == name.len() { format!("{start:?}") } else { format!("{start:?}…") }
}

/// A parser's error message, truncated where it repeats a long part of the request.
pub(crate) fn truncated(error: &impl Display) -> String {
    let mut message = Truncate(String::new());
    if write!(message, "{error}").is_err() {
        message.0.push('…');
    }
    message.0
}

/// A writer that fails once the message is full, so that the rest of it is not even formatted.
struct Truncate(String);

impl Write for Truncate {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(MAX_ERROR_BYTES - self.0.len());
        self.0.push_str(&text[..fits]);
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
