use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::CONTENT_TYPE;
use moka::future::Cache;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use sha2::{Digest, Sha256};

/// As long as a result of MLServe.
const ANSWER: &[u8] = br#"{"model":"mnist","version":"1","cls":7,"label":"7","value":0.9870991,"probabilities":[{"label":"0","value":0.0011018},{"label":"1","value":0.0015126},{"label":"2","value":0.0012745},{"label":"3","value":0.0015541},{"label":"4","value":0.0012321},{"label":"5","value":0.0013223},{"label":"6","value":0.0008123},{"label":"7","value":0.9870991},{"label":"8","value":0.0014332},{"label":"9","value":0.0026581}],"cached":true,"key":"sha256:0000000000000000000000000000000000000000000000000000000000000000","model_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","device":"cpu","timing_ms":{"total":0.2,"decode":0.1,"queue":0.0,"infer":0.3}}"#;

/// Reads the body and drops it.
pub fn constant() -> Router {
    Router::new().route("/predict/{model}", post(async |_: Bytes| json(Bytes::from_static(ANSWER))))
}

/// The cache is in this process.
pub fn near() -> Router {
    let cache: Cache<[u8; 32], Bytes> = Cache::builder().max_capacity(1 << 20).build();
    Router::new().route("/predict/{model}", post(get_or_insert_local)).with_state(cache)
}

async fn get_or_insert_local(State(cache): State<Cache<[u8; 32], Bytes>>, body: Bytes) -> Response {
    let key: [u8; 32] = Sha256::digest(&body).into();
    if let Some(answer) = cache.get(&key).await {
        return json(answer);
    }
    cache.insert(key, Bytes::from_static(ANSWER)).await;
    json(Bytes::from_static(ANSWER))
}

/// The cache is a Redis.
pub async fn redis(url: &str) -> anyhow::Result<Router> {
    let connection = ::redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    Ok(Router::new().route("/predict/{model}", post(get_or_insert_redis)).with_state(connection))
}

async fn get_or_insert_redis(State(mut connection): State<MultiplexedConnection>, body: Bytes) -> Response {
    let key: [u8; 32] = Sha256::digest(&body).into();
    let found: Result<Option<Vec<u8>>, _> = connection.get(&key[..]).await;
    match found {
        Ok(Some(answer)) => json(answer.into()),
        Ok(None) => match connection.set::<_, _, ()>(&key[..], ANSWER).await {
            Ok(()) => json(Bytes::from_static(ANSWER)),
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

fn json(body: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn failed(error: &impl ToString) -> Response {
    (http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}
