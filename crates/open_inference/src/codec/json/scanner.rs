//! Scanner for nested JSON arrays.

use crate::types::MAX_RANK;

/// Why a JSON array cannot be converted to elements. The message follows the name of the input or output.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ArrayError {
    #[error("{0}")]
    Malformed(String),
    /// More bytes than the limit.
    #[error("its data is too large")]
    TooLarge,
}

/// Pull scanner for the elements of a JSON list. It accepts flat and nested lists, and checks the nesting against a
/// shape.
///
/// It does not recurse: the depth is a counter, so that deep nesting cannot overflow the stack.
pub(super) struct Scanner<'a> {
    text: &'a str,
    position: usize,
    shape: &'a [usize],
    depth: usize,
    deepest: usize,
    /// Depth of the first element; all others must have the same.
    element_depth: Option<usize>,
    /// Number of elements of the open list at each depth.
    lengths: [usize; MAX_RANK + 1],
}

impl<'a> Scanner<'a> {
    /// `shape` has at most [`MAX_RANK`] axes.
    pub fn new(text: &'a str, shape: &'a [usize]) -> Self {
        Self { text, position: 0, shape, depth: 0, deepest: 0, element_depth: None, lengths: [0; MAX_RANK + 1] }
    }

    /// Text of the next element, with quotes for a string; `None` after the last.
    #[inline]
    pub fn next(&mut self) -> Result<Option<&'a str>, ArrayError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.position) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => self.position += 1,
                b'[' => self.open()?,
                b']' => self.close()?,
                b'{' => return malformed("its data contains an object"),
                _ => return self.element(byte).map(Some),
            }
        }
        Ok(None)
    }

    fn open(&mut self) -> Result<(), ArrayError> {
        self.position += 1;
        // A scalar may be in a list of one element.
        if self.depth == self.shape.len().clamp(1, MAX_RANK) {
            let axes = self.shape.len();
            return malformed(format!("its data is nested deeper than the {axes} axes of its shape"));
        }
        self.lengths[self.depth] += 1;
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        self.lengths[self.depth] = 0;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ArrayError> {
        self.position += 1;
        let length = self.lengths[self.depth];
        // Where axes are omitted, as in a flat list, only the total number of elements is checked.
        let is_fully_nested = self.shape.len() > 1 && self.deepest == self.shape.len();
        let Some(axis) = self.depth.checked_sub(1) else { return malformed("its data has an unmatched bracket") };
        if is_fully_nested && self.shape[axis] != length {
            let shape = self.shape;
            return malformed(format!("a list on axis {axis} has {length} elements, where the shape is {shape:?}"));
        }
        self.depth = axis;
        Ok(())
    }

    fn element(&mut self, first: u8) -> Result<&'a str, ArrayError> {
        if *self.element_depth.get_or_insert(self.depth) != self.depth {
            return malformed("its data is nested unevenly");
        }
        self.lengths[self.depth] += 1;
        let rest = &self.text.as_bytes()[self.position..];
        let length = if first == b'"' { string_length(rest) } else { token_length(rest) };
        let start = self.position;
        self.position += length;
        // Both ends are ASCII characters, so the slice is valid UTF-8.
        self.text.get(start..self.position).map_or_else(|| malformed("its data is not valid JSON"), Ok)
    }
}

fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn token_length(text: &[u8]) -> usize {
    text.iter().position(|&byte| ENDS_TOKEN[usize::from(byte)]).unwrap_or(text.len())
}

/// A lookup table, because it is read for every byte of every number.
const ENDS_TOKEN: [bool; 256] = {
    let mut ends = [false; 256];
    let mut at = 0;
    while at < 8 {
        ends[b", ]\n\t\r[{"[at] as usize] = true;
        at += 1;
    }
    ends
};

fn malformed<T>(message: impl Into<String>) -> Result<T, ArrayError> {
    Err(ArrayError::Malformed(message.into()))
}
