use axum::Json;

/// `GET /`: a fixed JSON string, which clients of the first MLServe expect.
pub async fn greet() -> Json<&'static str> {
    Json("Can curl model api!")
}
