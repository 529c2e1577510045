//! Errors of preprocessing.

use image::ImageFormat;

/// The supported formats, for messages.
pub(super) const FORMATS: &str = "PNG, JPEG, BMP, GIF, WebP, TIFF or PNM";

/// Why an image was rejected. The texts are for the client and contain nothing internal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The body is empty.
    #[error("The image is empty: 0 bytes.")]
    Empty,

    /// No supported format has this magic.
    #[error("The image format is not supported: it must be {FORMATS}{hint}.")]
    UnknownFormat {
        /// The format that the bytes resemble, as the end of a sentence; may be empty.
        hint: &'static str,
    },

    /// The file exceeds a limit, by its length or by the sizes in its header.
    #[error(
        "The image is too large: {found} {measure}, and the limit is {limit} ({setting}). Send a smaller image, or raise the limit."
    )]
    TooLarge {
        /// The measure: `bytes`, `pixels wide`, `pixels high`, `pixels`, `bytes of memory to decode`.
        measure: &'static str,
        /// The environment variable that sets the limit.
        setting: &'static str,
        /// The limit.
        limit: u64,
        /// The measured value.
        found: u64,
    },

    /// The magic is valid, the rest of the file is not.
    #[error("The {format} image cannot be decoded: {reason}.")]
    Undecodable {
        /// The format of the magic.
        format: &'static str,
        /// The error of the decoder.
        reason: String,
    },

    /// The image could not be resized or encoded as PNG. The client is not at fault.
    #[error("The image cannot be processed: {reason}.")]
    Unprocessable {
        /// The error of the resizer or the encoder.
        reason: String,
    },
}

impl ImageError {
    pub(super) fn undecodable(format: ImageFormat, error: &image::ImageError) -> Self {
        let reason = match error {
            // A missing feature of the decoder helps the client; the details of damage help only the decoder's authors.
            image::ImageError::Unsupported(lacks) => short(&lacks.to_string()),
            _ => "it is damaged or truncated".to_owned(),
        };
        Self::Undecodable { format: format_name(format), reason }
    }

    /// The bytes violate the format.
    pub(super) fn damaged(format: ImageFormat) -> Self {
        Self::Undecodable { format: format_name(format), reason: "it is damaged or truncated".to_owned() }
    }

    pub(super) fn unencodable(error: &image::ImageError) -> Self {
        Self::Unprocessable { reason: short(&error.to_string()) }
    }
}

/// A decoder's message can quote the file, so it is reduced to one short line of printable text.
pub(super) fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect()
}

/// The usual name of a format.
pub(super) fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        _ => "PNM",
    }
}
