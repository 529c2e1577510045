use std::str::FromStr;

/// Up to so many classes are all listed in the output's order; of more, this many of the largest are.
const DEFAULT_LISTED_CLASSES: usize = 10;

/// How many classes of a result are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopK {
    /// All of up to ten classes in the output's order; of more, the ten largest, largest first.
    #[default]
    Default,
    /// This many of the largest, largest first.
    Count(usize),
    /// All, largest first.
    All,
}

/// A `top_k` that is neither a positive number nor `all`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("top_k is {0:?}; it must be a whole number from 1 on, or \"all\"")]
pub struct InvalidTopK(String);

impl TopK {
    /// How many of `classes` are listed, and `None` where all are listed in the output's order.
    pub(super) fn listed_count(self, classes: usize) -> Option<usize> {
        match self {
            Self::Default => (classes > DEFAULT_LISTED_CLASSES).then_some(DEFAULT_LISTED_CLASSES),
            Self::Count(count) => Some(count.min(classes)),
            Self::All => Some(classes),
        }
    }

    /// As a query parameter writes it; `None` for the default.
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
