use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use service::readiness::Readiness;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use web_api::settings::Settings;
use web_api::webhook::{Secret, WebhookSettings};

use crate::fake_model_api::model;
use crate::stack::{Stack, form_request, get_request, image_request};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// So often a webhook is tried here.
const TRIES: usize = 3;

/// Path, headers and body of each call.
type Heard = Vec<(String, HeaderMap, Bytes)>;

#[derive(Clone, Default)]
struct Ear {
    heard: Arc<Mutex<Heard>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

/// Somebody who is told, and answers one after the other with `answers`, and 204 when those are used up.
struct Receiver {
    address: SocketAddr,
    ear: Ear,
    server: JoinHandle<()>,
}

impl Receiver {
    async fn start(answers: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ear = Ear { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), ..Ear::default() };
        let routes = Router::new().fallback(post(Self::listen)).with_state(ear.clone());
        let server = tokio::spawn(async move {
            let settings = crate::stack::settings("http://127.0.0.1:1").server;
            let ready = Readiness::default();
            let _ = service::http_server::serve(listener, routes, &settings, &ready, std::future::pending()).await;
        });
        Self { address, ear, server }
    }

    async fn listen(
        State(Ear { heard, answers }): State<Ear>,
        request: axum::extract::Request,
    ) -> (StatusCode, [(header::HeaderName, &'static str); 1]) {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        heard.lock().unwrap().push((parts.uri.to_string(), parts.headers, body));
        let answer = answers.lock().unwrap().pop_front().unwrap_or(204);
        (StatusCode::from_u16(answer).unwrap(), [(header::LOCATION, "/elsewhere")])
    }

    fn url(&self) -> String {
        format!("http://{}/told?by=us", self.address)
    }

    fn heard(&self) -> Heard {
        self.ear.heard.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn allowing(allow: &str) -> Stack {
    let change = |settings: &mut Settings| {
        settings.webhooks = Some(WebhookSettings {
            allow: allow.parse().unwrap(),
            secret: SECRET.parse().unwrap(),
            back_off: vec![Duration::from_millis(10); TRIES - 1],
        });
    };
    Stack::serving(vec![model("mnist")], change).await
}

/// The job once its webhook is settled.
async fn settled(stack: &Stack, url: &str) -> Value {
    let submitted = stack.send(image_request(&format!("/jobs?webhook={url}"), "a picture")).await;
    assert_eq!(submitted.status, StatusCode::ACCEPTED, "{}", submitted.text());
    assert_eq!(submitted.json()["webhook"], json!({"status": "waiting", "tries": 0, "error": null}));
    for _ in 0..1000 {
        let job = stack.send(get_request(submitted.header("location"))).await.json();
        if ["delivered", "failed"].contains(&job["webhook"]["status"].as_str().unwrap()) {
            return job;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the webhook is never settled");
}

#[tokio::test]
async fn there_is_none_until_hosts_are_named() {
    let stack = Stack::serving(vec![model("mnist")], |_| {}).await;
    let refused = stack.send(image_request("/jobs?webhook=http://hooks.example.org/", "a")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text().contains("WEBHOOK_ALLOW"), "{}", refused.text());
    let job = stack.send(image_request("/jobs?webhook=", "a")).await;
    assert_eq!((job.status, &job.json()["webhook"]), (StatusCode::ACCEPTED, &Value::Null));
}

#[tokio::test]
async fn one_that_may_not_be_called_is_refused_with_the_reason() {
    let stack = allowing("hooks.example.org,*.example.com").await;
    let table = [
        ("ftp://hooks.example.org/", "neither http:// nor https://"),
        ("http://user:secret@hooks.example.org/", "credentials"),
        ("http://169.254.169.254/latest/meta-data", "does not name its host \\\"169.254.169.254\\\""),
        ("http://hooks.example.org:6379/", "not with port 6379"),
        ("http://2130706433/", "does not name its host \\\"127.0.0.1\\\""),
        ("http://example.com/", "does not name its host \\\"example.com\\\""),
        ("nonsense", "no complete URL"),
    ];
    for (url, reason) in table {
        let fields = [("image", Some("a.png"), "a"), ("webhook", None, url)];
        let query = stack.send(image_request(&format!("/jobs?webhook={url}"), "a")).await;
        for refused in [query, stack.send(form_request("/jobs", &fields)).await] {
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}");
            assert!(refused.text().contains(reason), "{url}: {}", refused.text());
        }
    }
    assert_eq!(stack.send(get_request("/jobs")).await.json(), json!({"jobs": []}));
}

#[tokio::test]
async fn who_did_not_take_it_is_told_again_and_sees_who_tells_him() {
    let receiver = Receiver::start(&[500]).await;
    let stack = allowing(&format!("127.0.0.0/8:{}", receiver.address.port())).await;
    let job = settled(&stack, &receiver.url()).await;
    assert_eq!(job["webhook"], json!({"status": "delivered", "tries": 2, "error": null}));
    let heard = receiver.heard();
    assert_eq!(heard.len(), 2);
    let secret: Secret = SECRET.parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (path, headers, body) in &heard {
        let header = |name: &str| headers[name].to_str().unwrap();
        assert_eq!((path.as_str(), header("content-type")), ("/told?by=us", "application/json"));
        assert_eq!(header("host"), receiver.address.to_string());
        let timestamp: u64 = header("webhook-timestamp").parse().unwrap();
        assert!(now.abs_diff(timestamp) < 30, "{timestamp}");
        assert_eq!(header("webhook-signature"), secret.sign(header("webhook-id"), timestamp, body));
        assert_eq!(header("webhook-id"), heard[0].1["webhook-id"]);
        assert!(!header("webhook-id").contains('.'));
        let told: Value = serde_json::from_slice(body).unwrap();
        for field in ["id", "model", "status", "total", "done", "created", "finished"] {
            assert_eq!(told[field], job[field], "{field}");
        }
        assert_eq!((&told["status"], &told["results"]), (&json!("succeeded"), &Value::Null));
    }
}

#[tokio::test]
async fn who_never_takes_it_is_left_alone_and_no_redirect_is_followed() {
    let receiver = Receiver::start(&[500, 302, 404]).await;
    let stack = allowing(&receiver.address.to_string()).await;
    let job = settled(&stack, &receiver.url()).await;
    assert_eq!(job["webhook"], json!({"status": "failed", "tries": 3, "error": "it answered 404"}));
    sleep(Duration::from_secs(1)).await;
    let paths: Vec<String> = receiver.heard().into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["/told?by=us"; TRIES]);
}

#[tokio::test]
async fn a_name_that_is_allowed_does_not_lead_into_the_house() {
    let receiver = Receiver::start(&[]).await;
    let name = format!("localhost:{}", receiver.address.port());
    let stack = allowing(&name).await;
    let job = settled(&stack, &format!("http://{name}/")).await;
    assert_eq!((&job["webhook"]["status"], &job["webhook"]["tries"]), (&json!("failed"), &json!(3)));
    let error = job["webhook"]["error"].as_str().unwrap();
    assert!(error.contains("no address that may be called") && !error.contains("127.0"), "{error}");
    assert!(receiver.heard().is_empty());
    // Unless its address is allowed as well.
    let stack = allowing(&format!("{name}, 127.0.0.1, ::1")).await;
    let job = settled(&stack, &format!("http://{name}/")).await;
    assert_eq!(job["webhook"]["status"], "delivered");
    assert_eq!(receiver.heard().len(), 1);
}

#[tokio::test]
async fn who_does_not_listen_is_no_reason_to_end() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stack = allowing(&gone.to_string()).await;
    let job = settled(&stack, &format!("http://{gone}/")).await;
    assert_eq!(job["webhook"]["error"], "no connection to it could be made");
}
