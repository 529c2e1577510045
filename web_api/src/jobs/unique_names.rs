//! Unique names for the files of a submission.

use std::collections::HashMap;

/// Makes names unique: the second `a.png` becomes `a (2).png`.
#[derive(Default)]
pub struct UniqueNames {
    /// Names in use, each with the next number to try for it.
    used: HashMap<String, u32>,
}

impl UniqueNames {
    /// Returns `name`, with a number if it is in use already.
    pub fn claim(&mut self, name: &str) -> String {
        // A single image may have no name.
        if name.is_empty() {
            return String::new();
        }
        let Some(&first) = self.used.get(name) else {
            self.used.insert(name.to_owned(), 2);
            return name.to_owned();
        };
        let base = name.rfind('/').map_or(0, |slash| slash + 1);
        // A leading dot marks a hidden file and starts no extension.
        let dot = name[base..].rfind('.').filter(|&dot| dot > 0).map_or(name.len(), |dot| base + dot);
        let (stem, extension) = name.split_at(dot);
        let mut number = first;
        let unique = loop {
            let candidate = format!("{stem} ({number}){extension}");
            number += 1;
            if !self.used.contains_key(&candidate) {
                break candidate;
            }
        };
        self.used.insert(name.to_owned(), number);
        self.used.insert(unique.clone(), 2);
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_get_numbers() {
        let mut names = UniqueNames::default();
        let unique: Vec<String> = ["a.png", "a.png", "a (2).png", "a.png", "x.y/a", "x.y/a", ".b", ".b", "", ""]
            .into_iter()
            .map(|name| names.claim(name))
            .collect();
        let expected =
            ["a.png", "a (2).png", "a (2) (2).png", "a (3).png", "x.y/a", "x.y/a (2)", ".b", ".b (2)", "", ""];
        assert_eq!(unique, expected);
    }
}
