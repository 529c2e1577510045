use std::borrow::Cow;
use std::convert::Infallible;
use std::mem;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::header;
use mime::Mime;
use multer::{Field, Multipart};
use service::body_limits::ReadBody;

use crate::error::Error;
use crate::state::AppState;

/// Names of form fields that carry the image.
const IMAGE_FIELDS: [&str; 2] = ["image", "file"];

/// Media types of most image bodies, compared as they are, without parsing. The first is the default where there is no
/// `Content-Type`.
const COMMON_MEDIA_TYPES: [&str; 4] = ["application/octet-stream", "image/png", "image/jpeg", "image/webp"];

/// Maximum number of unknown form fields. The forms of our own clients have two fields.
const MAX_OTHER_FIELDS: usize = 16;

/// Maximum number of characters of a client's text that an error message repeats.
const MAX_SHOWN_CHARACTERS: usize = 100;

/// One image of a request: the form field `image` or `file`, or the whole body.
///
/// The extractor checks size, media type and emptiness, so that no handler can omit them. `model_api` decodes the image and decides
/// whether it is one.
pub struct ImageUpload {
    /// Encoded image as sent, never empty.
    pub image: Bytes,
    /// Media type that the client named. The page uses it to show the image again.
    pub media_type: Cow<'static, str>,
    /// File name that the client named.
    pub file_name: Option<String>,
    /// Form field `model`.
    pub model: Option<String>,
    /// Holds the memory reservation of the body.
    _body: ReadBody,
}

/// Rejection of an [`ImageUpload`]. It keeps the chosen model, so that the page that shows the error keeps it selected.
#[derive(Debug)]
pub struct UploadRejection {
    /// What is wrong with the request.
    pub error: Error,
    /// Form field `model`, if it was read before the error.
    pub model: Option<String>,
}

impl FromRequest<AppState> for ImageUpload {
    type Rejection = UploadRejection;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, UploadRejection> {
        Self::read(request, app).await
    }
}

impl ImageUpload {
    /// Reads the whole request.
    pub async fn read(request: Request, app: &AppState) -> Result<Self, UploadRejection> {
        let (parts, body) = request.into_parts();
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.unwrap_or(COMMON_MEDIA_TYPES[0]);
        let (kind, media_type) = match COMMON_MEDIA_TYPES.into_iter().find(|common| *common == media_type) {
            Some(common) => (BodyKind::Image, common.into()),
            None => (BodyKind::from_media_type(media_type)?, media_type.to_owned().into()),
        };
        let body = app.bodies.read(&parts, body).await?;
        match kind {
            BodyKind::Multipart { boundary } => Box::pin(read_multipart(app, body, boundary)).await,
            BodyKind::Image if body.bytes.is_empty() => Err(Error::NoImage.into()),
            BodyKind::Image => {
                Ok(Self { image: body.bytes.clone(), media_type, file_name: None, model: None, _body: body })
            }
        }
    }
}

impl<E: Into<Error>> From<E> for UploadRejection {
    fn from(error: E) -> Self {
        Self { error: error.into(), model: None }
    }
}

impl IntoResponse for UploadRejection {
    fn into_response(self) -> Response {
        self.error.into_response()
    }
}

enum BodyKind {
    Multipart { boundary: String },
    Image,
}

impl BodyKind {
    fn from_media_type(media_type: &str) -> Result<Self, Error> {
        let unsupported = || Error::UnsupportedMediaType(shown(media_type));
        let mime: Mime = media_type.parse().map_err(|_| unsupported())?;
        match (mime.type_().as_str(), mime.subtype().as_str()) {
            ("multipart", "form-data") => Ok(Self::Multipart { boundary: multer::parse_boundary(media_type)? }),
            ("image", _) | ("application", "octet-stream") => Ok(Self::Image),
            _ => Err(unsupported()),
        }
    }
}

async fn read_multipart(app: &AppState, mut body: ReadBody, boundary: String) -> Result<ImageUpload, UploadRejection> {
    // multer copies the body, and then the file. The body itself is freed as soon as it is copied.
    let bytes = mem::take(&mut body.bytes);
    let copy = bytes.len();
    body.reservation.reserve(copy)?;
    let (fields, read) = app
        .blocking_pool
        .run(bytes.len(), move || {
            let mut fields = MultipartFields::default();
            let multipart = Multipart::new(stream::iter([Ok::<_, Infallible>(bytes)]), boundary);
            let read = fields.read(multipart).now_or_never().unwrap_or(Err(Error::Internal));
            (fields, read)
        })
        .await?;
    body.reservation.release(copy);
    let MultipartFields { file, model, .. } = fields;
    if let Err(error) = read {
        return Err(UploadRejection { error, model });
    }
    match file {
        Some(FileField { image, media_type, file_name }) if !image.is_empty() => {
            Ok(ImageUpload { image, media_type, file_name, model, _body: body })
        }
        _ => Err(UploadRejection { error: Error::NoImage, model }),
    }
}

/// Fields of a multipart form.
#[derive(Default)]
struct MultipartFields {
    file: Option<FileField>,
    model: Option<String>,
    /// Names of unknown fields.
    others: Vec<String>,
}

struct FileField {
    image: Bytes,
    media_type: Cow<'static, str>,
    file_name: Option<String>,
}

impl MultipartFields {
    /// Reads every field. After an error, the fields before it are kept. Never pending, because the whole body has been read.
    async fn read(&mut self, mut form: Multipart<'_>) -> Result<(), Error> {
        while let Some(field) = form.next_field().await? {
            if self.others.len() == MAX_OTHER_FIELDS {
                return Err(Error::InvalidForm(format!("it has more than {MAX_OTHER_FIELDS} fields")));
            }
            let name = field.name().unwrap_or_default().to_owned();
            if IMAGE_FIELDS.contains(&name.as_str()) {
                let (media_type, file_name) = (media_type_of(&field).into(), field.file_name().map(ToOwned::to_owned));
                let image = field.bytes().await?;
                if self.file.replace(FileField { image, media_type, file_name }).is_some() {
                    return Err(Error::MultipleImages);
                }
            } else if name == "model" {
                self.model = Some(field.text().await?).filter(|name| !name.is_empty());
            } else {
                self.others.push(shown(&name));
            }
        }
        if self.file.is_none() && !self.others.is_empty() {
            return Err(Error::MissingImageField(self.others.join(", ")));
        }
        Ok(())
    }
}

fn media_type_of(field: &Field<'_>) -> String {
    field.content_type().map_or_else(|| mime::APPLICATION_OCTET_STREAM.to_string(), ToString::to_string)
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARACTERS).collect()
}
