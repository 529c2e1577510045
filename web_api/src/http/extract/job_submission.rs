use std::convert::Infallible;

use axum::RequestExt;
use axum::extract::{FromRequest, Query, Request};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use contract::{ModelDescription, TopK};
use db_api::jobs::{InputKind, InputSpec};
use futures_util::{FutureExt, stream};
use http::{HeaderMap, header};
use multer::Multipart;
use open_inference::{Platform, TensorMetadata};
use serde::Deserialize;
use service::body_limits::ReadBody;
use service::memory_budget::Reservation;
use sha2::{Digest, Sha256};

use crate::archive::{ArchiveFormat, FileFilter, SubmissionLimits};
use crate::error::Error;
use crate::jobs::input_reader::{InputReader, PayloadFormat};
use crate::state::AppState;

/// Maximum number of form fields that are not files. The forms of our own clients have two such fields.
const MAX_OTHER_FIELDS: usize = 16;

/// Maximum number of files of a form, including skipped files. A folder may hold many times more skipped files than inputs.
const MAX_FORM_FILES: usize = 100_000;

/// Memory per file of a form, without its content and its name, in bytes.
const FILE_OVERHEAD_BYTES: usize = 256;

/// Maximum number of characters of a media type that an error message repeats.
const MAX_SHOWN_CHARACTERS: usize = 100;

/// Maximum length of an idempotency key in characters.
const MAX_KEY_LENGTH: usize = 255;

/// Many inputs in one request: files of a form, files of an archive, or inference requests as JSON.
///
/// The extractor checks the request itself. The contents are checked while they are unpacked, and each input when it runs.
pub struct JobSubmission {
    /// Query parameter or form field `model`.
    pub model: Option<String>,
    /// How to parse each input.
    pub spec: InputSpec,
    /// Query parameter or form field `webhook`: a URL that `WEBHOOK_ALLOW` permits.
    pub webhook: Option<String>,
    /// Header `Idempotency-Key`.
    pub key: Option<String>,
    payload: Payload,
    /// Memory reservation of the payload.
    memory: Reservation,
}

#[derive(Debug, Default, Deserialize)]
struct SubmissionParams {
    model: Option<String>,
    version: Option<String>,
    webhook: Option<String>,
    top_k: Option<String>,
}

impl FromRequest<AppState> for JobSubmission {
    type Rejection = Error;

    async fn from_request(mut request: Request, app: &AppState) -> Result<Self, Error> {
        let query = request.extract_parts::<Query<SubmissionParams>>().await.map(|Query(query)| query);
        let query = query.map_err(|error| Error::InvalidJobRequest(error.to_string()))?;
        let (parts, body) = request.into_parts();
        let key = idempotency_key(&parts.headers)?;
        let ReadBody { bytes, reservation: mut memory } = app.bodies.read(&parts, body).await?;
        let length = bytes.len();
        let media_type =
            parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.to_owned();
        let parse = move || {
            let (payload, fields) = Payload::parse(bytes, &media_type, &mut memory)?;
            Ok::<_, Error>((payload, fields, memory))
        };
        let (payload, fields, memory) = app.blocking_pool.run(length, parse).await??;
        let webhook = query.webhook.filter(|webhook| !webhook.is_empty()).or(fields.webhook);
        if let Some(webhook) = &webhook {
            app.webhooks.as_ref().ok_or(Error::WebhooksDisabled)?.allow.check(webhook)?;
        }
        let top_k = query.top_k.or(fields.top_k).map(|text| text.parse()).transpose()?.and_then(TopK::query_value);
        let spec = InputSpec {
            kind: payload.kind(),
            version: query.version,
            content_type: String::new(),
            json_length: None,
            top_k,
        };
        Ok(Self { model: query.model.or(fields.model), spec, webhook, key, payload, memory })
    }
}

impl JobSubmission {
    /// Digest of the submission to `model`. Equal submissions have equal digests.
    pub fn digest(&self, model: &str) -> String {
        digest(model, &self.spec, &self.payload.digest)
    }

    /// Reader of the inputs for `model`. Where the model takes images, other files are skipped.
    pub fn inputs(&self, app: &AppState, model: &ModelDescription) -> InputReader {
        let limits = SubmissionLimits {
            max_inputs: app.max_job_inputs,
            max_entries: app.max_job_inputs.saturating_mul(4),
            max_input_bytes: app.bodies.max_bytes(),
            max_bytes: app.max_job_bytes,
        };
        let only_images = takes_images(model) && !self.payload.is_single_image;
        let filter = if only_images { FileFilter::ImagesOnly } else { FileFilter::All };
        InputReader::new(self.payload.format, self.payload.files.clone(), filter, limits, self.memory.sibling())
    }
}

/// Returns true also for a model that has not been loaded yet, because most models take images.
fn takes_images(model: &ModelDescription) -> bool {
    let is_unread = model.inputs.is_empty() && model.platform != Platform::Queue;
    is_unread || model.image.is_some() || model.inputs.iter().any(TensorMetadata::accepts_images)
}

/// Parses `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), with or without the quotes of a structured field.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default().trim().trim_matches('"');
    if !(1..=MAX_KEY_LENGTH).contains(&key.len()) {
        return Err(Error::InvalidJobRequest(format!("Idempotency-Key has 1 to {MAX_KEY_LENGTH} ASCII characters")));
    }
    Ok(Some(key.to_owned()))
}

/// Digest of everything that determines the results of `data`: SHA-256 over length-prefixed fields, in base64url.
pub fn digest(model: &str, spec: &InputSpec, data: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(hash([model.as_bytes(), digested_text(spec).as_bytes(), data]))
}

/// Text form of `spec` that goes into the digest. It must never change, because digests in Redis outlive an upgrade.
fn digested_text(spec: &InputSpec) -> String {
    let InputSpec { kind, version, content_type, json_length, top_k } = spec;
    let kind = match kind {
        InputKind::Image => "Image",
        InputKind::V2 => "V2",
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

/// Contents of a request body. Archives are still packed.
struct Payload {
    format: PayloadFormat,
    /// Name and content of each file.
    files: Vec<(String, Bytes)>,
    /// Hash of the files and their names. It excludes the boundary of a form, which differs in each request.
    digest: [u8; 32],
    /// Whether the media type declares the body as one image.
    is_single_image: bool,
}

impl Payload {
    /// Parses a body. Memory that it needs in addition to the body is reserved in `memory` first.
    fn parse(body: Bytes, media_type: &str, memory: &mut Reservation) -> Result<(Self, SubmissionParams), Error> {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let single = |format| (Self::new(format, vec![(String::new(), body.clone())]), SubmissionParams::default());
        match essence.as_str() {
            "multipart/form-data" => Self::parse_multipart(body, media_type, memory),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/json-lines" => {
                Ok(single(PayloadFormat::Lines))
            }
            "application/json" => Ok(single(PayloadFormat::List)),
            _ if ArchiveFormat::detect(&body).is_some() => Ok(single(PayloadFormat::Files)),
            // A single image is a job with one input.
            _ if essence.starts_with("image/") => {
                let (payload, params) = single(PayloadFormat::Files);
                Ok((Self { is_single_image: true, ..payload }, params))
            }
            _ => Err(Error::UnsupportedJobMediaType(media_type.chars().take(MAX_SHOWN_CHARACTERS).collect())),
        }
    }

    fn new(format: PayloadFormat, files: Vec<(String, Bytes)>) -> Self {
        let digest = hash(files.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]));
        Self { format, files, digest, is_single_image: false }
    }

    /// Parses a multipart form without waiting, because the whole body has been read.
    ///
    /// multer copies the body, and then each file. The body itself is freed as soon as it is copied.
    fn parse_multipart(
        body: Bytes,
        media_type: &str,
        memory: &mut Reservation,
    ) -> Result<(Self, SubmissionParams), Error> {
        let boundary = multer::parse_boundary(media_type)?;
        let copy = body.len();
        memory.reserve(copy)?;
        let multipart = Multipart::new(stream::iter([Ok::<_, Infallible>(body)]), boundary);
        let read = read_fields(multipart, memory).now_or_never().unwrap_or(Err(Error::Internal));
        memory.release(copy);
        read.map(|(files, params)| (Self::new(PayloadFormat::Files, files), params))
    }

    fn kind(&self) -> InputKind {
        if self.format == PayloadFormat::Files { InputKind::Image } else { InputKind::V2 }
    }
}

async fn read_fields(
    mut multipart: Multipart<'_>,
    memory: &mut Reservation,
) -> Result<(Vec<(String, Bytes)>, SubmissionParams), Error> {
    let (mut files, mut params, mut others) = (Vec::new(), SubmissionParams::default(), 0);
    while let Some(field) = multipart.next_field().await? {
        memory.reserve(FILE_OVERHEAD_BYTES + field.file_name().map_or(0, str::len))?;
        let name = field.name().unwrap_or_default().to_owned();
        match (name.as_str(), field.file_name().map(ToOwned::to_owned)) {
            ("model", None) => params.model = Some(field.text().await?),
            ("webhook", None) => params.webhook = Some(field.text().await?),
            ("top_k", None) => params.top_k = Some(field.text().await?),
            (_, Some(file)) => files.push((file, field.bytes().await?)),
            _ => others += 1,
        }
        if others > MAX_OTHER_FIELDS {
            let reason = format!("it has more than {MAX_OTHER_FIELDS} fields that are not files");
            return Err(Error::InvalidForm(reason));
        }
        if files.len() > MAX_FORM_FILES {
            return Err(Error::TooManyInputs { sent: files.len(), max: MAX_FORM_FILES });
        }
    }
    params.model = params.model.filter(|model| !model.is_empty());
    params.webhook = params.webhook.filter(|webhook| !webhook.is_empty());
    params.top_k = params.top_k.filter(|top_k| !top_k.is_empty());
    Ok((files, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digested_text_never_changes() {
        let spec = |top_k: Option<&str>| InputSpec {
            kind: InputKind::Image,
            version: Some("2".to_owned()),
            content_type: String::new(),
            json_length: None,
            top_k: top_k.map(str::to_owned),
        };
        let before = r#"Asked { kind: Image, version: Some("2"), content_type: "", json_length: None }"#;
        assert_eq!(digested_text(&spec(None)), before);
        assert_ne!(digest("m", &spec(None), b""), digest("m", &spec(Some("3")), b""));
    }
}
