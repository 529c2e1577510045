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

use crate::app::App;
use crate::error::Error;

/// Names of form fields that hold the picture.
const FILE_FIELDS: [&str; 2] = ["image", "file"];

/// What bodies that are a picture mostly say of themselves; the first, also where they say nothing. They are known as they
/// stand.
const USUAL_TYPES: [&str; 4] = ["application/octet-stream", "image/png", "image/jpeg", "image/webp"];

/// A form of ours has two fields; one with very many is no form of ours.
const MAX_FIELDS: usize = 16;

/// A picture out of a request: a form's `image` or `file`, or the body itself. Size, media type and emptiness are
/// settled here, so that no handler can forget them; whether it *is* a picture, `model_api` says.
pub struct ImageUpload {
    /// As sent, never empty.
    pub image: Bytes,
    /// The media type that the client named, for showing the picture again.
    pub media_type: Cow<'static, str>,
    /// The file's name as the client gave it.
    pub file_name: Option<String>,
    /// The form's field `model`.
    pub model: Option<String>,
    /// Keeps the body's share of the memory for bodies.
    _body: ReadBody,
}

/// Why there is no picture, and what the form said beside it: the page that shows the error keeps the chosen model.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub error: Error,
    /// The form's field `model`, as far as it was read.
    pub model: Option<String>,
}

impl FromRequest<App> for ImageUpload {
    type Rejection = Rejected;

    async fn from_request(request: Request, app: &App) -> Result<Self, Rejected> {
        Self::read(request, app).await
    }
}

impl ImageUpload {
    /// Reads all of a request.
    pub async fn read(request: Request, app: &App) -> Result<Self, Rejected> {
        let (parts, body) = request.into_parts();
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.unwrap_or(USUAL_TYPES[0]);
        let (kind, media_type) = match USUAL_TYPES.into_iter().find(|usual| *usual == media_type) {
            Some(usual) => (Kind::Image, usual.into()),
            None => (Kind::of(media_type)?, media_type.to_owned().into()),
        };
        let body = app.bodies.read(&parts, body).await?;
        match kind {
            Kind::Form { boundary } => Box::pin(from_form(app, body, boundary)).await,
            Kind::Image if body.bytes.is_empty() => Err(Error::NoImage.into()),
            Kind::Image => {
                Ok(Self { image: body.bytes.clone(), media_type, file_name: None, model: None, _body: body })
            }
        }
    }
}

impl<E: Into<Error>> From<E> for Rejected {
    fn from(error: E) -> Self {
        Self { error: error.into(), model: None }
    }
}

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        self.error.into_response()
    }
}

enum Kind {
    Form { boundary: String },
    Image,
}

impl Kind {
    fn of(media_type: &str) -> Result<Self, Error> {
        let other = || Error::MediaType(media_type.chars().take(100).collect());
        let mime: Mime = media_type.parse().map_err(|_| other())?;
        match (mime.type_().as_str(), mime.subtype().as_str()) {
            ("multipart", "form-data") => multer::parse_boundary(media_type)
                .map(|boundary| Self::Form { boundary })
                .map_err(|error| Error::Form(error.to_string())),
            ("image", _) | ("application", "octet-stream") => Ok(Self::Image),
            _ => Err(other()),
        }
    }
}

async fn from_form(app: &App, mut body: ReadBody, boundary: String) -> Result<ImageUpload, Rejected> {
    // The reader has a copy of the body, and then one of the file; the body itself goes as soon as it is copied.
    let bytes = mem::take(&mut body.bytes);
    let copy = bytes.len();
    body.reservation.reserve(copy)?;
    let (form, read) = app
        .workbench
        .run(bytes.len(), move || {
            let mut form = Form::default();
            let whole = Multipart::new(stream::iter([Ok::<_, Infallible>(bytes)]), boundary);
            let read = form.read(whole).now_or_never().unwrap_or(Err(Error::Internal));
            (form, read)
        })
        .await?;
    body.reservation.release(copy);
    let Form { file, model, .. } = form;
    if let Err(error) = read {
        return Err(Rejected { error, model });
    }
    match file {
        Some(FilePart { image, media_type, file_name }) if !image.is_empty() => {
            Ok(ImageUpload { image, media_type, file_name, model, _body: body })
        }
        _ => Err(Rejected { error: Error::NoImage, model }),
    }
}

/// What a form held.
#[derive(Default)]
struct Form {
    file: Option<FilePart>,
    model: Option<String>,
    others: Vec<String>,
}

struct FilePart {
    image: Bytes,
    media_type: Cow<'static, str>,
    file_name: Option<String>,
}

impl Form {
    /// Reads every field; what was read before an error stays. Never waits, since the whole form is there.
    async fn read(&mut self, mut form: Multipart<'_>) -> Result<(), Error> {
        let form_error = |error: multer::Error| Error::Form(error.to_string());
        while let Some(field) = form.next_field().await.map_err(form_error)? {
            if self.others.len() == MAX_FIELDS {
                return Err(Error::Form(format!("it has more than {MAX_FIELDS} fields")));
            }
            let name = field.name().unwrap_or_default().to_owned();
            if FILE_FIELDS.contains(&name.as_str()) {
                let (media_type, file_name) = (media_type_of(&field).into(), field.file_name().map(ToOwned::to_owned));
                let image = field.bytes().await.map_err(form_error)?;
                if self.file.replace(FilePart { image, media_type, file_name }).is_some() {
                    return Err(Error::SeveralImages);
                }
            } else if name == "model" {
                self.model = Some(field.text().await.map_err(form_error)?).filter(|name| !name.is_empty());
            } else {
                self.others.push(name.chars().take(100).collect());
            }
        }
        if self.file.is_none() && !self.others.is_empty() {
            return Err(Error::WrongField(self.others.join(", ")));
        }
        Ok(())
    }
}

fn media_type_of(field: &Field<'_>) -> String {
    field.content_type().map_or_else(|| mime::APPLICATION_OCTET_STREAM.to_string(), ToString::to_string)
}
