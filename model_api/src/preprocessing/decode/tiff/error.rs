//! Errors of TIFF files.

use tiff::TiffError;

use crate::preprocessing::error::{ImageError, short};

pub(super) fn undecodable(reason: &str) -> ImageError {
    ImageError::Undecodable { format: "TIFF", reason: reason.to_owned() }
}

pub(super) fn failed(error: &TiffError) -> ImageError {
    match error {
        TiffError::UnsupportedError(lacks) => undecodable(&short(&lacks.to_string())),
        TiffError::LimitsExceeded => {
            undecodable("a strip or tile of it takes more memory than MAX_DECODE_BYTES allows")
        }
        _ => undecodable("it is damaged or truncated"),
    }
}
