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
use web_api::webhook::secret::Secret;
use web_api::webhook::settings::WebhookSettings;

use crate::fake_model_api::model;
use crate::stack::{Stack, form_request, get_request, image_request};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Attempts to deliver a webhook in these tests.
const ATTEMPTS: usize = 3;

/// Path, headers and body of each request.
type Received = Vec<(String, HeaderMap, Bytes)>;

#[derive(Clone, Default)]
struct ReceiverState {
    received: Arc<Mutex<Received>>,
    statuses: Arc<Mutex<VecDeque<u16>>>,
}

/// A server that responds to webhooks with `statuses`, one after the other, and then with 204.
struct Receiver {
    address: SocketAddr,
    state: ReceiverState,
    server: JoinHandle<()>,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = ReceiverState {
            statuses: Arc::new(Mutex::new(statuses.iter().copied().collect())),
            ..ReceiverState::default()
        };
        let routes = Router::new().fallback(post(Self::receive)).with_state(state.clone());
        let server = tokio::spawn(async move {
            let settings = crate::stack::settings("http://127.0.0.1:1").server;
            let ready = Readiness::default();
            let _ = service::http_server::serve(listener, routes, &settings, &ready, std::future::pending()).await;
        });
        Self { address, state, server }
    }

    async fn receive(
        State(ReceiverState { received, statuses }): State<ReceiverState>,
        request: axum::extract::Request,
    ) -> (StatusCode, [(header::HeaderName, &'static str); 1]) {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        received.lock().unwrap().push((parts.uri.to_string(), parts.headers, body));
        let status = statuses.lock().unwrap().pop_front().unwrap_or(204);
        (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, "/elsewhere")])
    }

    fn url(&self) -> String {
        format!("http://{}/hook?from=test", self.address)
    }

    fn received(&self) -> Received {
        self.state.received.lock().unwrap().clone()
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
            retry_delays: vec![Duration::from_millis(10); ATTEMPTS - 1],
        });
    };
    Stack::serving(vec![model("mnist")], change).await
}

/// Submits a job, and waits until its webhook has been delivered or has failed.
async fn settled(stack: &Stack, url: &str) -> Value {
    let submitted = stack.send(image_request(&format!("/jobs?webhook={url}"), "an image")).await;
    assert_eq!(submitted.status, StatusCode::ACCEPTED, "{}", submitted.text());
    assert_eq!(submitted.json()["webhook"], json!({"status": "waiting", "tries": 0, "error": null}));
    for _ in 0..1000 {
        let job = stack.send(get_request(submitted.header("location"))).await.json();
        if ["delivered", "failed"].contains(&job["webhook"]["status"].as_str().unwrap()) {
            return job;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the webhook was neither delivered nor failed");
}

#[tokio::test]
async fn webhooks_are_disabled_until_hosts_are_allowed() {
    let stack = Stack::serving(vec![model("mnist")], |_| {}).await;
    let refused = stack.send(image_request("/jobs?webhook=http://hooks.example.org/", "a")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text().contains("WEBHOOK_ALLOW"), "{}", refused.text());
    let job = stack.send(image_request("/jobs?webhook=", "a")).await;
    assert_eq!((job.status, &job.json()["webhook"]), (StatusCode::ACCEPTED, &Value::Null));
}

#[tokio::test]
async fn a_webhook_that_is_not_allowed_is_rejected_with_the_reason() {
    let stack = allowing("hooks.example.org,*.example.com").await;
    let table = [
        ("ftp://hooks.example.org/", "neither http:// nor https://"),
        ("http://user:secret@hooks.example.org/", "credentials"),
        ("http://169.254.169.254/latest/meta-data", "does not name its host \\\"169.254.169.254\\\""),
        ("http://hooks.example.org:6379/", "not with port 6379"),
        ("http://2130706433/", "does not name its host \\\"127.0.0.1\\\""),
        ("http://example.com/", "does not name its host \\\"example.com\\\""),
        ("nonsense", "not a complete URL"),
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
async fn a_failed_delivery_is_retried_and_all_attempts_are_signed() {
    let receiver = Receiver::start(&[500]).await;
    let stack = allowing(&format!("127.0.0.0/8:{}", receiver.address.port())).await;
    let job = settled(&stack, &receiver.url()).await;
    assert_eq!(job["webhook"], json!({"status": "delivered", "tries": 2, "error": null}));
    let requests = receiver.received();
    assert_eq!(requests.len(), 2);
    let secret: Secret = SECRET.parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (path, headers, body) in &requests {
        let header = |name: &str| headers[name].to_str().unwrap();
        assert_eq!((path.as_str(), header("content-type")), ("/hook?from=test", "application/json"));
        assert_eq!(header("host"), receiver.address.to_string());
        let timestamp: u64 = header("webhook-timestamp").parse().unwrap();
        assert!(now.abs_diff(timestamp) < 30, "{timestamp}");
        assert_eq!(header("webhook-signature"), secret.sign(header("webhook-id"), timestamp, body));
        assert_eq!(header("webhook-id"), requests[0].1["webhook-id"]);
        assert!(!header("webhook-id").contains('.'));
        let body: Value = serde_json::from_slice(body).unwrap();
        for field in ["id", "model", "status", "total", "done", "created", "finished"] {
            assert_eq!(body[field], job[field], "{field}");
        }
        assert_eq!((&body["status"], &body["results"]), (&json!("succeeded"), &Value::Null));
    }
}

#[tokio::test]
async fn delivery_fails_after_the_last_attempt_and_redirects_are_not_followed() {
    let receiver = Receiver::start(&[500, 302, 404]).await;
    let stack = allowing(&receiver.address.to_string()).await;
    let job = settled(&stack, &receiver.url()).await;
    assert_eq!(job["webhook"], json!({"status": "failed", "tries": 3, "error": "it responded with status 404"}));
    sleep(Duration::from_secs(1)).await;
    let paths: Vec<String> = receiver.received().into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["/hook?from=test"; ATTEMPTS]);
}

#[tokio::test]
async fn an_allowed_name_does_not_permit_private_addresses() {
    let receiver = Receiver::start(&[]).await;
    let name = format!("localhost:{}", receiver.address.port());
    let stack = allowing(&name).await;
    let job = settled(&stack, &format!("http://{name}/")).await;
    assert_eq!((&job["webhook"]["status"], &job["webhook"]["tries"]), (&json!("failed"), &json!(3)));
    let error = job["webhook"]["error"].as_str().unwrap();
    assert!(error.contains("no address that may be called") && !error.contains("127.0"), "{error}");
    assert!(receiver.received().is_empty());
    // It does if the address is allowed as well.
    let stack = allowing(&format!("{name}, 127.0.0.1, ::1")).await;
    let job = settled(&stack, &format!("http://{name}/")).await;
    assert_eq!(job["webhook"]["status"], "delivered");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_unreachable_fails_the_webhook() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stack = allowing(&unused.to_string()).await;
    let job = settled(&stack, &format!("http://{unused}/")).await;
    assert_eq!(job["webhook"]["error"], "no connection to it could be made");
}
