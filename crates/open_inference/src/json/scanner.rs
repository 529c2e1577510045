use super::elements::ElementsError;
use crate::MAX_RANK;

/// Walks over the elements of a JSON list, however it is nested, and holds the nesting against a shape.
///
/// No recursion: a list's depth is a number here.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    shape: &'a [usize],
    depth: usize,
    deepest: usize,
    /// Where the elements are: the depth of the first one.
    elements_at: Option<usize>,
    /// Members of the open list at each depth.
    members: [usize; MAX_RANK + 1],
}

impl<'a> Scanner<'a> {
    /// `shape` has at most [`MAX_RANK`] axes.
    pub fn new(text: &'a str, shape: &'a [usize]) -> Self {
        Self { text, at: 0, shape, depth: 0, deepest: 0, elements_at: None, members: [0; MAX_RANK + 1] }
    }

    /// The next element's text, a string's with its quotes; `None` after the last.
    #[inline]
    pub fn next(&mut self) -> Result<Option<&'a str>, ElementsError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => self.at += 1,
                b'[' => self.open()?,
                b']' => self.close()?,
                b'{' => return malformed("its data has an object among its elements"),
                _ => return self.element(byte).map(Some),
            }
        }
        Ok(None)
    }

    fn open(&mut self) -> Result<(), ElementsError> {
        self.at += 1;
        // A scalar may stand in a list of one.
        if self.depth == self.shape.len().clamp(1, MAX_RANK) {
            let axes = self.shape.len();
            return malformed(format!("its data is nested deeper than the {axes} axes of its shape"));
        }
        self.members[self.depth] += 1;
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        self.members[self.depth] = 0;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ElementsError> {
        self.at += 1;
        let members = self.members[self.depth];
        // Where axes are left out, as in a flat list, only the number of all elements counts.
        let spelt_out = self.shape.len() > 1 && self.deepest == self.shape.len();
        let Some(axis) = self.depth.checked_sub(1) else { return malformed("its data has a bracket too many") };
        if spelt_out && self.shape[axis] != members {
            let shape = self.shape;
            return malformed(format!("a list on axis {axis} has {members} elements, where the shape is {shape:?}"));
        }
        self.depth = axis;
        Ok(())
    }

    fn element(&mut self, first: u8) -> Result<&'a str, ElementsError> {
        if *self.elements_at.get_or_insert(self.depth) != self.depth {
            return malformed("its data is nested unevenly");
        }
        self.members[self.depth] += 1;
        let rest = &self.text.as_bytes()[self.at..];
        let length = if first == b'"' { string_length(rest) } else { word_length(rest) };
        let begin = self.at;
        self.at += length;
        // Both ends are ASCII, so this is the text of a character's boundary to another's.
        self.text.get(begin..self.at).map_or_else(|| malformed("its data is no JSON"), Ok)
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

fn word_length(text: &[u8]) -> usize {
    text.iter().position(|&byte| ENDS_WORD[usize::from(byte)]).unwrap_or(text.len())
}

/// A table, since this is asked for every byte of every number.
const ENDS_WORD: [bool; 256] = {
    let mut ends = [false; 256];
    let mut at = 0;
    while at < 8 {
        ends[b", ]\n\t\r[{"[at] as usize] = true;
        at += 1;
    }
    ends
};

fn malformed<T>(words: impl Into<String>) -> Result<T, ElementsError> {
    Err(ElementsError::Malformed(words.into()))
}
