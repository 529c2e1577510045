//! Query parameter `top_k`: number of listed classes.

use std::str::FromStr;

/// Up to this many classes are listed in the order of the output. Of more classes, this many of the largest are listed.
const DEFAULT_LISTED_CLASSES: usize = 10;

/// Number of classes that a result lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopK {
    /// Up to ten classes in the order of the output. Of more, the ten largest, largest first.
    #[default]
    Default,
    /// This many of the largest classes, largest first.
    Count(usize),
    /// All classes, largest first.
    All,
}

/// A `top_k` that is neither a positive number nor `all`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("top_k is {0:?}; it must be a positive whole number or \"all\"")]
pub struct InvalidTopK(String);

impl TopK {
    /// Number of listed classes of `classes`. `None` lists all in the order of the output.
    pub(super) fn listed_count(self, classes: usize) -> Option<usize> {
        match self {
            Self::Default => (classes > DEFAULT_LISTED_CLASSES).then_some(DEFAULT_LISTED_CLASSES),
            Self::Count(count) => Some(count.min(classes)),
            Self::All => Some(classes),
        }
    }

    /// Value of the query parameter. `None` for the default.
    pub fn query_value(self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::Count(count) => Some(count.to_string()),
            Self::All => Some("all".to_owned()),
        }
    }
}

impl FromStr for TopK {
    type Err = InvalidTopK;

    fn from_str(text: &str) -> Result<Self, InvalidTopK> {
        match text.parse() {
            Ok(count) if count > 0 => Ok(Self::Count(count)),
            _ if text == "all" => Ok(Self::All),
            _ => Err(InvalidTopK(text.chars().take(32).collect())),
        }
    }
}
