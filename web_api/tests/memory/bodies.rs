use std::convert::Infallible;
use std::io::{Cursor, Write};

use axum::body::Body;
use axum::extract::FromRequest;
use bytes::Bytes;
use contract::{ImageInput, ModelDescription, ModelList};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::{HeaderName, Request, StatusCode, header};
use http_body_util::BodyExt;
use open_inference::{ContentType, Datatype, ModelState, TensorMetadata};
use prometheus_client::registry::Registry;
use tower::ServiceExt;
use web_api::http::extract::job_submission::JobSubmission;
use web_api::router::router;
use web_api::settings::Settings;
use web_api::state::AppState;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::CONSTANT;
use crate::counting::{BUDGET, excess_since, start};

const MIB: usize = 1 << 20;

/// Bodies that are rejected because of their content.
const REJECTED: [&str; 3] = ["V2 JSON of parameters", "V2 JSON with an escaped id", "gzip of blanks"];

/// Pseudorandom numbers, the same in each run (Knuth's multiplier).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..=length / 4).flat_map(|_| (self.next() as u32).to_le_bytes()).take(length).collect()
    }
}

/// A body, and the route that receives it.
struct Sent {
    what: &'static str,
    path: &'static str,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

fn sent(what: &'static str, path: &'static str, media_type: &str, body: Vec<u8>) -> Sent {
    Sent { what, path, headers: vec![(header::CONTENT_TYPE, media_type.to_owned())], body: body.into() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append_data(&mut header, name, &**bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(&**name, SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn form(field: &str, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in files {
        write!(body, "--b\r\nContent-Disposition: form-data; name={field}; filename=\"{name}\"\r\n\r\n").unwrap();
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

/// A few large files, or thousands of small ones. Some unpack to a thousand times their packed size.
fn files(random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let (count, length) = match random.below(3) {
        0 => (1 + random.below(4), 3 * MIB),
        1 => (2000, 1 + random.below(800)),
        _ => (3, MIB),
    };
    let long = "n".repeat(random.below(180));
    let flat = random.below(2) == 0;
    let content = |random: &mut Random| if flat { vec![0; length] } else { random.bytes(length) };
    (0..count).map(|number| (format!("{long}{number}.png"), content(random))).collect()
}

fn request_of(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":[{data}]}}]}}"#)
}

/// One body of every kind.
fn all(random: &mut Random) -> Vec<Sent> {
    const FORM: &str = "multipart/form-data; boundary=b";
    let files = files(random);
    let length = MIB + random.below(4 * MIB);
    let image = random.bytes(length);
    let numbers = 1000 + random.below(MIB);
    let digits = vec!["1"; numbers].join(",");
    let floats = request_of("FP32", &format!("[{numbers},1]"), &digits);
    let escaped = request_of("BYTES", "[1]", &format!("\"{}\"", "\\/".repeat(length / 8 * 4)));
    let parameters: Vec<String> = (0..64).map(|number| format!("\"{number}\":1")).collect();
    let tensor = format!(
        r#"{{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{{{}}},"data":[1]}}"#,
        parameters.join(",")
    );
    let members = format!(r#"{{"inputs":[{}]}}"#, vec![tensor; 1000 + random.below(2000)].join(","));
    let names = format!(r#"{{"id":"{}","inputs":[]}}"#, "\\n".repeat(MIB));
    let list = format!("[{}]", vec![request_of("FP32", "[1,1]", "1"); 1 + random.below(3000)].join(","));
    let noise = format!("[{}", "1,".repeat(length / 2));
    let lines = vec![request_of("FP32", "[1,1]", "1"); 1 + random.below(3000)].join("\n");
    let array = format!(r#"{{"image_arr":[{}]}}"#, vec!["[1]"; numbers].join(","));
    let head = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{numbers},1],"parameters":{{"binary_data_size":{}}}}}]}}"#,
        4 * numbers
    );
    let binary = [head.as_bytes(), &vec![0; 4 * numbers]].concat();
    let mut binary = sent("V2 binary", "/v2/models/table/infer", "application/octet-stream", binary);
    binary.headers.push((HeaderName::from_static("inference-header-content-length"), head.len().to_string()));
    let mut packed = sent("gzip", "/v2/models/table/infer", "application/json", gzip(floats.as_bytes()));
    packed.headers.push((header::CONTENT_ENCODING, "gzip".to_owned()));
    let mut bomb = sent("gzip of blanks", "/v2/models/table/infer", "application/json", gzip(&vec![b' '; 6 * MIB]));
    bomb.headers.push((header::CONTENT_ENCODING, "gzip".to_owned()));
    let tarred = tar(&files);
    let json = "application/json";
    vec![
        sent("image", "/predict/image", "image/png", image.clone()),
        sent("form", "/predict/image", FORM, form("image", &[("a.png".to_owned(), image.clone())])),
        sent("V2 image", "/v2/models/image/infer", "image/png", image),
        sent("V2 JSON", "/v2/models/table/infer", json, floats.into()),
        sent("V2 JSON of parameters", "/v2/models/table/infer", json, members.into()),
        sent("V2 JSON with an escaped text", "/v2/models/image/infer", json, escaped.into()),
        sent("V2 JSON with an escaped id", "/v2/models/table/infer", json, names.into()),
        binary,
        packed,
        bomb,
        sent("array", "/web_api/table", json, array.into()),
        sent("job form", "/jobs", FORM, form("file", &files)),
        sent("job form of archives", "/jobs", FORM, form("file", &vec![("a.zip".to_owned(), zip(&files)); 3])),
        sent("ZIP", "/jobs", "application/zip", zip(&files)),
        sent("TAR", "/jobs", "application/x-tar", tarred.clone()),
        sent("TAR in gzip", "/jobs", "application/gzip", gzip(&tarred)),
        sent("list", "/jobs", json, list.into()),
        sent("list of noise", "/jobs", json, noise.into()),
        sent("NDJSON", "/jobs", "application/x-ndjson", lines.into()),
    ]
}

fn models() -> ModelList {
    let mut image = TensorMetadata::new("x", Datatype::Fp32, &[-1, 28, 28, 1]);
    image.parameters.content_type = Some(ContentType::Image);
    let output = TensorMetadata::new("y", Datatype::Fp32, &[-1, 10]);
    let model = |name: &str, input: TensorMetadata| ModelDescription {
        inputs: vec![input],
        outputs: vec![output.clone()],
        digest: format!("sha256:{name}"),
        ..ModelDescription::placeholder(name, "1", ModelState::Ready, None)
    };
    let size = ImageInput { width: 28, height: 28, color: "gray".to_owned(), fit: "digit".to_owned() };
    let image = ModelDescription { image: Some(size), is_default: true, ..model("image", image) };
    let table =
        ModelDescription { is_default: true, ..model("table", TensorMetadata::new("x", Datatype::Fp32, &[-1, -1])) };
    ModelList { models: vec![image, table], ready: true, ..ModelList::default() }
}

/// Without `model_api`: a request is parsed and encoded all the same.
fn app() -> AppState {
    let mut settings = Settings::from_env().unwrap();
    settings.model_api = vec!["http://127.0.0.1:1".parse().unwrap()];
    settings.redis_url = None;
    let (app, _) = AppState::new(&settings, &mut Registry::default()).unwrap();
    app.catalog.apply(Ok(models()));
    app
}

/// Body in chunks, as from a connection, with or without `Content-Length`.
fn request(sent: &Sent, declared: bool) -> Request<Body> {
    let body = sent.body.clone();
    let pieces = (0..body.len()).step_by(16 << 10).map(move |at| body.slice(at..body.len().min(at + (16 << 10))));
    let mut request = Request::post(sent.path)
        .header(header::HOST, "localhost")
        .body(Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>))))
        .unwrap();
    let length = declared.then(|| (header::CONTENT_LENGTH, sent.body.len().to_string()));
    for (name, value) in sent.headers.iter().cloned().chain(length) {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// Reads a submission to its end, without a queue that keeps it.
async fn read_submission(app: &AppState, request: Request<Body>) {
    let Ok(submission) = JobSubmission::from_request(request, app).await else { return };
    let name = if submission.spec.kind == db_api::jobs::InputKind::Image { "image" } else { "table" };
    let model = app.catalog.find(Some(name)).unwrap();
    let mut inputs = submission.inputs(app, &model);
    while let Ok((chunk, rest)) = inputs.next_chunk(&app.blocking_pool).await {
        if chunk.is_empty() {
            break;
        }
        inputs = rest;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_a_request_is_reserved_before_it_is_allocated() {
    let app = app();
    let routes = router(&app);
    BUDGET.set(app.bodies.budget().clone()).unwrap();
    let mut random = Random(7);
    for round in 0..2 {
        for sent in all(&mut random) {
            for declared in [true, false] {
                let request = request(&sent, declared);
                let started = start();
                if sent.path == "/jobs" {
                    read_submission(&app, request).await;
                } else {
                    let response = routes.clone().oneshot(request).await.unwrap();
                    // There is no model_api, so a valid request fails with 503.
                    let is_valid = !REJECTED.contains(&sent.what);
                    let status = response.status();
                    assert_eq!(status == StatusCode::SERVICE_UNAVAILABLE, is_valid, "{}: {status}", sent.what);
                    let _ = response.into_body().collect().await;
                }
                let (excess, length) = (excess_since(started), sent.body.len());
                assert!(
                    excess <= CONSTANT.cast_signed(),
                    "round {round}, {} of {length} bytes: {excess} bytes more than is reserved",
                    sent.what
                );
                assert_eq!(app.bodies.budget().used(), 0, "{}: all memory is released", sent.what);
            }
        }
    }
}
