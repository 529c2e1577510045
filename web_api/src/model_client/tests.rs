use service::memory_budget::MemoryBudget;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

fn entry(version: &str, state: ModelState, reason: &str) -> ModelIndex {
    let (name, version, reason) = ("m".to_owned(), version.to_owned(), reason.to_owned());
    ModelIndex { name, version, state, reason, batching: None }
}

#[test]
fn the_replica_that_does_worst_is_told_of() {
    let mut known = Vec::new();
    let unavailable = entry("1", ModelState::Unavailable, "is no model");
    for told in [entry("1", ModelState::Ready, ""), unavailable.clone(), entry("2", ModelState::Ready, "")] {
        merge(&mut known, told.clone());
        merge(&mut known, entry("1", ModelState::Ready, ""));
    }
    assert_eq!(known, [unavailable, entry("2", ModelState::Ready, "")]);
}

#[test]
fn one_replica_that_fails_among_several_is_named() {
    let broken = || Err(Error::Model(open_inference::Error::unfit("is no model.")));
    assert_eq!(all_did(vec![broken()]).unwrap_err().to_string(), "is no model.");
    let error = all_did(vec![Ok(Bytes::new()), broken()]).unwrap_err();
    assert!(error.to_string().starts_with("Replica 2 of 2 failed: is no model."), "{error}");
    assert_eq!(error.status().0, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(all_did(vec![Ok(Bytes::new())]).is_ok());
}

#[tokio::test]
async fn a_name_stands_for_all_addresses_behind_it() {
    let found = addresses("http://localhost:5050/base".parse().unwrap()).await;
    assert!(found.contains(&"http://127.0.0.1:5050/base".parse().unwrap()), "{found:?}");
    let unknown: Url = "http://model.invalid:5050".parse().unwrap();
    assert_eq!(addresses(unknown.clone()).await, [unknown]);
}

/// Replicas that read a request and close its connection without a response, after this time. Counts the requests.
async fn replicas_that_break(number: usize, after: Duration) -> (Vec<Url>, Arc<AtomicUsize>) {
    let (requests, mut replicas) = (Arc::<AtomicUsize>::default(), Vec::new());
    for _ in 0..number {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        replicas.push(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let requests = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let requests = Arc::clone(&requests);
                tokio::spawn(async move {
                    if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                        requests.fetch_add(1, Ordering::SeqCst);
                        sleep(after).await;
                    }
                });
            }
        });
    }
    (replicas, requests)
}

/// An address where nothing listens.
async fn gone() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

async fn ask(replicas: Vec<Url>, patience: Duration) -> Result<Response, Error> {
    let settings = Settings { model_api: replicas, ..Settings::from_env().unwrap() };
    let client = ModelClient::new(&settings, Workbench::default(), MemoryBudget::new(64 << 20)).unwrap();
    client.ask(Method::POST, &["v2"], None, None, patience).await
}

#[tokio::test]
async fn a_request_that_takes_replicas_down_is_sent_to_two_of_them_at_most() {
    for number in [1, 2, 5] {
        let (replicas, requests) = replicas_that_break(number, Duration::ZERO).await;
        let error = ask(replicas, Duration::from_secs(20)).await.unwrap_err();
        assert!(matches!(error, Error::ModelUnreachable), "{error:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 2, "of {number}");
    }
}

#[tokio::test]
async fn replicas_that_are_gone_have_received_nothing_and_the_next_one_is_tried() {
    let (mut replicas, requests) = replicas_that_break(1, Duration::ZERO).await;
    replicas.splice(..0, [gone().await, gone().await, gone().await]);
    ask(replicas, Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn all_tries_of_a_request_have_one_deadline() {
    let (replicas, requests) = replicas_that_break(2, Duration::from_millis(700)).await;
    let begun = Instant::now();
    let error = ask(replicas, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded), "{error:?} after {:?}", begun.elapsed());
    assert_eq!(requests.load(Ordering::SeqCst), 2, "the second one in what was left of the time");
}
