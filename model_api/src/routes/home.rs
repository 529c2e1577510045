use axum::Json;

/// `GET /`: a JSON string, as the first MLServe had it.
pub async fn greet() -> Json<&'static str> {
    Json("Can curl model api!")
}
