use std::convert::Infallible;

use axum::RequestExt;
use axum::extract::{FromRequest, Query, Request};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use contract::{ModelDescription, TopK};
use db_api::jobs::{Asked, Kind};
use futures_util::{FutureExt, stream};
use http::{HeaderMap, header};
use multer::Multipart;
use open_inference::{Platform, TensorMetadata};
use serde::Deserialize;
use service::body_limits::ReadBody;
use service::memory_budget::Reservation;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::archive::{Bounds, Format, Keep};
use crate::error::Error;
use crate::inputs::Inputs;

/// Beside inputs, a form of ours has two fields.
const MAX_OTHER_FIELDS: usize = 16;

/// Files of a form that are skipped: a folder may hold many times more of them than inputs.
const MAX_FORM_FILES: usize = 100_000;

/// What a file of a form takes beside its bytes and its name.
const FILE_BYTES: usize = 256;

/// The longest idempotency key.
const MAX_KEY: usize = 255;

/// Many inputs in one request: files of a form, files of an archive, requests in JSON. What can be wrong with the request is settled here;
/// with what it holds, when it is unpacked; with one input, in that input's outcome.
pub struct Submission {
    /// `?model=`, or the form's field.
    pub model: Option<String>,
    /// How all inputs are to be read.
    pub asked: Asked,
    /// `?webhook=`, or the form's field: a URL that may be called.
    pub webhook: Option<String>,
    /// The header `Idempotency-Key`.
    pub key: Option<String>,
    parcel: Parcel,
    /// For the parcel.
    memory: Reservation,
}

#[derive(Debug, Default, Deserialize)]
struct Wishes {
    model: Option<String>,
    version: Option<String>,
    webhook: Option<String>,
    top_k: Option<String>,
}

impl FromRequest<App> for Submission {
    type Rejection = Error;

    async fn from_request(mut request: Request, app: &App) -> Result<Self, Error> {
        let wishes = request.extract_parts::<Query<Wishes>>().await.map(|Query(wishes)| wishes);
        let wishes = wishes.map_err(|error| Error::Job(error.to_string()))?;
        let (parts, body) = request.into_parts();
        let key = idempotency_key(&parts.headers)?;
        let ReadBody { bytes, reservation: mut share } = app.bodies.read(&parts, body).await?;
        let length = bytes.len();
        let media_type =
            parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.to_owned();
        let read = move || Parcel::read(bytes, &media_type, &mut share).map(|(parcel, wishes)| (parcel, wishes, share));
        let (parcel, in_form, memory) = app.workbench.run(length, read).await??;
        let webhook = wishes.webhook.filter(|webhook| !webhook.is_empty()).or(in_form.webhook);
        if let Some(webhook) = &webhook {
            app.webhooks.as_ref().ok_or(Error::NoWebhooks)?.allow.check(webhook)?;
        }
        let top_k = wishes.top_k.or(in_form.top_k).map(|text| text.parse()).transpose()?.and_then(TopK::query_value);
        let asked = Asked {
            kind: parcel.kind(),
            version: wishes.version,
            content_type: String::new(),
            json_length: None,
            top_k,
        };
        Ok(Self { model: wishes.model.or(in_form.model), asked, webhook, key, parcel, memory })
    }
}

impl Submission {
    /// Whether another submission asks `model` the same.
    pub fn digest(&self, model: &str) -> String {
        digest(model, &self.asked, &self.parcel.digest)
    }

    /// Its inputs for `model`, in pieces. Where the model takes images, other files are skipped.
    pub fn inputs(&self, app: &App, model: &ModelDescription) -> Inputs {
        let bounds = Bounds {
            inputs: app.max_job_inputs,
            entries: app.max_job_inputs.saturating_mul(4),
            input_bytes: app.bodies.max_bytes(),
            bytes: app.max_job_bytes,
        };
        let keep = if takes_images(model) && !self.parcel.is_alone { Keep::Images } else { Keep::All };
        Inputs::new(self.parcel.form, self.parcel.files.clone(), keep, bounds, self.memory.sibling())
    }
}

/// Also a model whose files have not been read yet: few take other files.
fn takes_images(model: &ModelDescription) -> bool {
    let is_unread = model.inputs.is_empty() && model.platform != Platform::Queue;
    is_unread || model.image.is_some() || model.inputs.iter().any(TensorMetadata::takes_images)
}

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), with or without the quotes of a structured field.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default().trim().trim_matches('"');
    if !(1..=MAX_KEY).contains(&key.len()) {
        return Err(Error::Job(format!("Idempotency-Key has 1 to {MAX_KEY} ASCII characters")));
    }
    Ok(Some(key.to_owned()))
}

/// What decides the answers to `data`, read as `asked`: SHA-256 over length-prefixed fields.
pub fn digest(model: &str, asked: &Asked, data: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(hash([model.as_bytes(), written(asked).as_bytes(), data]))
}

/// The text that digests in Redis are made of. It must not change: an idempotency key outlives an upgrade.
fn written(asked: &Asked) -> String {
    let Asked { kind, version, content_type, json_length, top_k } = asked;
    let kind = match kind {
        Kind::Image => "Image",
        Kind::V2 => "V2",
    };
    let top_k = top_k.as_ref().map_or_else(String::new, |top_k| format!(", top_k: {top_k:?}"));
    format!(
        "Asked {{ kind: {kind}, version: {version:?}, content_type: {content_type:?}, json_length: {json_length:?}{top_k} }}"
    )
}

fn hash<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

/// What a body holds, archives still packed.
struct Parcel {
    form: Form,
    /// Under their names.
    files: Vec<(String, Bytes)>,
    /// Of the files and their names; not of a form's boundary, which is another one each time.
    digest: [u8; 32],
    /// A body whose media type says that it is one image, whatever it holds.
    is_alone: bool,
}

/// How the inputs of a body are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Images, and archives of images.
    Files,
    /// A request, or a list of them.
    List,
    /// A request on each line.
    Lines,
}

impl Parcel {
    /// What is kept beside the body is reserved in `memory` before.
    fn read(body: Bytes, media_type: &str, memory: &mut Reservation) -> Result<(Self, Wishes), Error> {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let alone = |form| (Self::new(form, vec![(String::new(), body.clone())]), Wishes::default());
        match essence.as_str() {
            "multipart/form-data" => Self::of_form(body, media_type, memory),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/json-lines" => {
                Ok(alone(Form::Lines))
            }
            "application/json" => Ok(alone(Form::List)),
            _ if Format::of(&body).is_some() => Ok(alone(Form::Files)),
            // A single image is a job of one.
            _ if essence.starts_with("image/") => {
                let (parcel, wishes) = alone(Form::Files);
                Ok((Self { is_alone: true, ..parcel }, wishes))
            }
            _ => Err(Error::JobMediaType(media_type.chars().take(100).collect())),
        }
    }

    fn new(form: Form, files: Vec<(String, Bytes)>) -> Self {
        let digest = hash(files.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]));
        Self { form, files, digest, is_alone: false }
    }

    /// Never waits, since the whole form is there.
    ///
    /// The reader has a copy of the body, and then a copy of each file; the body itself goes as soon as it is copied.
    fn of_form(body: Bytes, media_type: &str, memory: &mut Reservation) -> Result<(Self, Wishes), Error> {
        let form_error = |error: multer::Error| Error::Form(error.to_string());
        let boundary = multer::parse_boundary(media_type).map_err(form_error)?;
        let copy = body.len();
        memory.reserve(copy)?;
        let read = async {
            let mut form = Multipart::new(stream::iter([Ok::<_, Infallible>(body)]), boundary);
            let (mut files, mut wishes, mut others) = (Vec::new(), Wishes::default(), 0);
            while let Some(field) = form.next_field().await.map_err(form_error)? {
                memory.reserve(FILE_BYTES + field.file_name().map_or(0, str::len))?;
                let name = field.name().unwrap_or_default().to_owned();
                match (name.as_str(), field.file_name().map(ToOwned::to_owned)) {
                    ("model", None) => wishes.model = Some(field.text().await.map_err(form_error)?),
                    ("webhook", None) => wishes.webhook = Some(field.text().await.map_err(form_error)?),
                    ("top_k", None) => wishes.top_k = Some(field.text().await.map_err(form_error)?),
                    (_, Some(file)) => files.push((file, field.bytes().await.map_err(form_error)?)),
                    _ => others += 1,
                }
                if others > MAX_OTHER_FIELDS {
                    return Err(Error::Form(format!("it has more than {MAX_OTHER_FIELDS} fields that are no files")));
                }
                if files.len() > MAX_FORM_FILES {
                    return Err(Error::TooManyInputs { sent: files.len(), most: MAX_FORM_FILES });
                }
            }
            wishes.model = wishes.model.filter(|model| !model.is_empty());
            wishes.webhook = wishes.webhook.filter(|webhook| !webhook.is_empty());
            wishes.top_k = wishes.top_k.filter(|top_k| !top_k.is_empty());
            Ok((Self::new(Form::Files, files), wishes))
        };
        let read = read.now_or_never().unwrap_or(Err(Error::Internal));
        memory.release(copy);
        read
    }

    fn kind(&self) -> Kind {
        if self.form == Form::Files { Kind::Image } else { Kind::V2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digested_text_is_that_of_earlier_versions() {
        let asked = |top_k: Option<&str>| Asked {
            kind: Kind::Image,
            version: Some("2".to_owned()),
            content_type: String::new(),
            json_length: None,
            top_k: top_k.map(str::to_owned),
        };
        let before = r#"Asked { kind: Image, version: Some("2"), content_type: "", json_length: None }"#;
        assert_eq!(written(&asked(None)), before);
        assert_ne!(digest("m", &asked(None), b""), digest("m", &asked(Some("3")), b""));
    }
}
