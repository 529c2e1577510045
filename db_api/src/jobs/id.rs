use std::fmt;
use std::str::FromStr;

/// Id of a job: 128 random bits, because the id alone grants access to the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(u128);

/// The text is not a job id: an id has 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job id has 32 lower-case hexadecimal digits")]
pub struct InvalidJobId;

impl JobId {
    /// A new random id.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel provides random bytes");
        Self(u128::from_ne_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        let is_valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let id = is_valid.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.map(Self).ok_or(InvalidJobId)
    }
}
