//! Contents of submissions: images among other files, archives that unpack to more than one body, JSON with a byte order mark.

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::jobs::{ended, job_of, post, request_of, zip};
use crate::stack::{Stack, form_request, get_request};

fn names(job: &Value) -> Vec<&str> {
    job["results"].as_array().unwrap().iter().map(|result| result["name"].as_str().unwrap()).collect()
}

fn tar(files: &[(&str, usize)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (number, (name, length)) in (1..).zip(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(*length as u64);
        header.set_cksum();
        builder.append_data(&mut header, name, &*vec![number; *length]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn tgz(tarred: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(tarred).unwrap();
    packed.finish().unwrap()
}

#[tokio::test]
async fn other_files_are_skipped_and_counted() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let files = [
        ("a.png", "a"),
        ("Thumbs.db", "thumbs"),
        ("desktop.ini", "[.ShellClassInfo]"),
        ("deep/README", "Read me"),
        ("b", "\u{89}PNG is no image"),
        ("c", "GIF89a"),
    ];
    let expected = json!({"count": 4, "names": ["Thumbs.db", "desktop.ini", "deep/README", "b"]});
    let accepted = stack.send(post("/jobs", "application/zip", zip(&files))).await;
    assert_eq!(accepted.json()["skipped"], expected);
    let job = ended(&stack, &job_of(&accepted)).await;
    assert_eq!((&job["status"], &job["total"], &job["skipped"]), (&json!("succeeded"), &json!(2), &expected));
    assert_eq!(names(&job), ["a.png", "c"]);
    let again = stack.send(post("/jobs", "application/zip", zip(&files))).await.json();
    assert_eq!((&again["runs"], &again["skipped"]), (&json!(0), &expected), "a deduplicated job has the same value");

    let fields = [("f", Some("photos/a.png"), "x"), ("f", Some("photos/.DS_Store"), "x"), ("f", Some("notes"), "")];
    let job = stack.send(form_request("/jobs", &fields)).await.json();
    assert_eq!((&job["total"], &job["skipped"]["count"]), (&json!(1), &json!(2)));
    let list = stack.send(get_request("/jobs")).await.json();
    assert_eq!(list["jobs"][0]["skipped"]["names"], json!(["photos/.DS_Store", "notes"]));
    // The media type declares one image, so the content does not matter.
    let one = stack.send(post("/jobs", "image/png", "text")).await.json();
    assert_eq!((&one["total"], &one["skipped"]), (&json!(1), &json!({"count": 0, "names": []})));
}

#[tokio::test]
async fn a_submission_without_images_is_rejected_with_the_skipped_files() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let files = [("Thumbs.db", "x"), ("a.txt", "x"), ("b.txt", "x"), ("c.txt", "x")];
    let refused = stack.send(post("/jobs", "application/zip", zip(&files))).await;
    let message = "The submission contains no images: 4 files were skipped (\"Thumbs.db\", \"a.txt\", \"b.txt\", …). Send images, or a ZIP or TAR of images.";
    assert_eq!((refused.status, &refused.json()["detail"]), (StatusCode::BAD_REQUEST, &json!(message)));
    let refused = stack.send(form_request("/jobs", &[("file", Some("a.txt"), "x")])).await;
    assert!(refused.text().contains("1 file was skipped (\\\"a.txt\\\")"), "{}", refused.text());
    assert_eq!(stack.send(get_request("/jobs")).await.json(), json!({"jobs": []}));
}

#[tokio::test]
async fn a_model_without_images_gets_every_file() {
    let mut table = model("table");
    table.inputs[0].parameters.content_type = None;
    let stack = Stack::serving(vec![table], |_| {}).await;
    let accepted = stack.send(post("/jobs", "application/zip", zip(&[("a.csv", "1,2"), ("Thumbs.db", "x")]))).await;
    let job = accepted.json();
    assert_eq!((&job["total"], &job["skipped"]["count"]), (&json!(2), &json!(0)));
}

#[tokio::test]
async fn files_with_equal_names_get_unique_names() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let fields = [("file", Some("a.png"), "a"), ("file", Some("a.png"), "bb"), ("file", Some("a.png"), "ccc")];
    let job = ended(&stack, &job_of(&stack.send(form_request("/jobs", &fields)).await)).await;
    assert_eq!(names(&job), ["a.png", "a (2).png", "a (3).png"]);
    let values = |at: usize| job["results"][at]["answer"]["probabilities"][2]["value"].as_f64().unwrap();
    assert!((values(1) / values(0) - 2.0).abs() < 1e-3 && (values(2) / values(0) - 3.0).abs() < 1e-3);
}

/// Limits: 1 MiB per body, 3 MiB per job.
#[tokio::test]
async fn an_archive_may_unpack_to_more_than_one_body() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let files = [("1.png", 500 << 10), ("2.png", 900 << 10), ("3.png", 700 << 10), ("notes", 5), ("4.png", 300 << 10)];
    let packed = tgz(&tar(&files));
    assert!(packed.len() < 1 << 20);
    let cut = [tgz(&tar(&files)[..1000]), tgz(&tar(&files)[1000..])].concat();
    for body in [packed, cut] {
        let job = ended(&stack, &job_of(&stack.send(post("/jobs", "application/gzip", body)).await)).await;
        assert_eq!(
            (&job["status"], &job["done"], &job["skipped"]["count"]),
            (&json!("succeeded"), &json!(4), &json!(1))
        );
        let echo = |at: usize| {
            (job["results"][at]["answer"]["probabilities"][2]["value"].as_f64().unwrap() * 1e6).round() as u64
        };
        assert_eq!([0, 1, 2, 3].map(echo), [500, 900, 700, 300].map(|kib: u64| kib * 1024));
    }
    let large = tgz(&tar(&[("1.png", 1 << 20), ("2.png", 1 << 20), ("3.png", 1 << 20), ("4.png", 1)]));
    let refused = stack.send(post("/jobs", "application/gzip", large)).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.text().contains("more than 3145728 bytes, unpacked"), "{}", refused.text());
    let large = stack.send(post("/jobs", "application/gzip", tgz(&tar(&[("1.png", (1 << 20) + 1)])))).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.text().contains("\\\"1.png\\\" is larger than 1048576 bytes"), "{}", large.text());
}

#[tokio::test]
async fn json_may_start_with_a_byte_order_mark() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let request = request_of(&["a"]);
    let marked = |text: String| format!("\u{feff}{text}");
    let list = stack.send(post("/jobs", "application/json", marked(json!([request]).to_string()))).await;
    assert_eq!(ended(&stack, &job_of(&list)).await["status"], "succeeded");
    for (path, media_type, body) in [
        ("/jobs", "application/json", request.to_string()),
        ("/jobs", "application/x-ndjson", format!("{request}\n")),
        ("/v2/models/mnist/infer", "application/json", request.to_string()),
        ("/v2/models/mnist/infer", "application/octet-stream", request.to_string()),
        ("/web_api", "application/json", json!({"image_arr": [[0.5, 0], [1, 0.25]]}).to_string()),
        ("/v2/repository/index", "application/json", "{}".to_owned()),
    ] {
        let answer = stack.send(post(path, media_type, marked(body.clone()))).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
        let utf16: Vec<u8> = marked(body).encode_utf16().flat_map(u16::to_le_bytes).collect();
        let refused = stack.send(post(path, media_type, utf16)).await;
        let is_json = media_type != "application/octet-stream";
        assert!(refused.status == StatusCode::BAD_REQUEST || !is_json, "{path}: {}", refused.text());
        assert!(
            refused.text().contains("UTF-16 or UTF-32; send it as UTF-8") || !is_json,
            "{path}: {}",
            refused.text()
        );
    }
}

#[tokio::test]
async fn a_body_of_several_gzip_members_is_decompressed_completely() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let body = request_of(&["a"]).to_string();
    for encoding in ["gzip", "GZIP", "x-gzip"] {
        let (begin, end) = body.as_bytes().split_at(20);
        let members = [tgz(begin), tgz(end), tgz(b"")].concat();
        let request = Request::post("/v2/models/mnist/infer").header("content-encoding", encoding);
        let answer = stack.send(request.body(Body::from(members)).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{encoding}: {}", answer.text());
    }
    let broken = [tgz(&body.as_bytes()[..20]), b"no gzip".to_vec()].concat();
    let request = Request::post("/v2/models/mnist/infer").header("content-encoding", "gzip");
    assert_eq!(stack.send(request.body(Body::from(broken)).unwrap()).await.status, StatusCode::BAD_REQUEST);
}
