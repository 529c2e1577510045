use image::ImageFormat;

/// The formats read here, for messages.
pub(super) const FORMATS: &str = "PNG, JPEG, BMP, GIF, WebP, TIFF or PNM";

/// Why bytes did not become a picture. The texts are for whoever sent them and hold nothing of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the picture is empty: 0 bytes")]
    Empty,

    /// No magic of a format that is read here.
    #[error("not a picture that is read here: it must be {FORMATS}{hint}")]
    UnknownFormat {
        /// What it looks like instead, as the end of a sentence; may be empty.
        hint: &'static str,
    },

    /// A limit was exceeded, by what the file says of itself or by its own length.
    #[error(
        "the picture is too large: {found} {measure}, where the limit is {limit} ({setting}); send a smaller one, or raise the limit"
    )]
    TooLarge {
        /// What was measured: `bytes`, `pixels wide`, `pixels high`, `pixels`, `bytes of memory to decode`.
        measure: &'static str,
        /// The environment variable that sets the limit.
        setting: &'static str,
        /// As much is allowed.
        limit: u64,
        /// As much was sent.
        found: u64,
    },

    /// The magic is right, the rest is not.
    #[error("the {format} picture cannot be decoded: {reason}")]
    Undecodable {
        /// The format that the magic announced.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },

    /// The picture could not be brought to the model's size or written as PNG. Not the sender's fault.
    #[error("the picture cannot be processed: {reason}")]
    Unprocessable {
        /// What the resizer or the encoder says.
        reason: String,
    },
}

impl ImageError {
    pub(super) fn undecodable(format: ImageFormat, error: &image::ImageError) -> Self {
        let reason = match error {
            // What the decoder lacks is worth knowing; how the bytes broke it says something to its authors only.
            image::ImageError::Unsupported(lacks) => short(&lacks.to_string()),
            _ => "it is damaged or cut short".to_owned(),
        };
        Self::Undecodable { format: format_name(format), reason }
    }

    /// The bytes are not what the format asks for.
    pub(super) fn damaged(format: ImageFormat) -> Self {
        Self::Undecodable { format: format_name(format), reason: "it is damaged or cut short".to_owned() }
    }

    pub(super) fn unencodable(error: &image::ImageError) -> Self {
        Self::Unprocessable { reason: short(&error.to_string()) }
    }
}

/// A decoder's message can quote the file; one short line of printable text of it is enough.
pub(super) fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect()
}

/// The name people know a format by.
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
