use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_host_name_resolves_to_all_its_addresses() {
    let found = resolve("http://localhost:5050/base".parse().unwrap()).await;
    assert!(found.contains(&"http://127.0.0.1:5050/base".parse().unwrap()), "{found:?}");
    let unknown: Url = "http://model.invalid:5050".parse().unwrap();
    assert_eq!(resolve(unknown.clone()).await, [unknown]);
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
async fn unreachable() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

async fn send(urls: Vec<Url>, timeout: Duration) -> Result<Response, Error> {
    let settings = Settings { model_api: urls, ..Settings::from_env().unwrap() };
    Replicas::new(&settings).unwrap().send_with_failover(Method::POST, &["v2"], None, None, timeout).await
}

#[tokio::test]
async fn a_request_that_crashes_replicas_reaches_at_most_two_of_them() {
    for number in [1, 2, 5] {
        let (replicas, requests) = replicas_that_break(number, Duration::ZERO).await;
        let error = send(replicas, Duration::from_secs(20)).await.unwrap_err();
        assert!(matches!(error, Error::ModelUnreachable), "{error:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 2, "of {number}");
    }
}

#[tokio::test]
async fn unreachable_replicas_are_skipped() {
    let (mut replicas, requests) = replicas_that_break(1, Duration::ZERO).await;
    replicas.splice(..0, [unreachable().await, unreachable().await, unreachable().await]);
    send(replicas, Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn all_attempts_of_a_request_share_one_timeout() {
    let (replicas, requests) = replicas_that_break(2, Duration::from_millis(700)).await;
    let started = Instant::now();
    let error = send(replicas, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded), "{error:?} after {:?}", started.elapsed());
    assert_eq!(requests.load(Ordering::SeqCst), 2, "the second attempt has what is left of the timeout");
}
