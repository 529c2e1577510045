//! Handlers, one file per route: extract → call → render.

/// `GET /static/{file}`: scripts and styles of the page.
pub mod assets;

/// `DELETE /cache/{model}`: invalidation of cached results.
pub mod cache;

/// `GET /docs` and `/openapi.json`: API documentation.
pub mod docs;

/// `GET /health/live` and `/health/ready`.
pub mod health;

/// `/jobs`: asynchronous inference.
pub mod jobs;

/// `POST /web_api`: inference on a nested JSON array.
pub mod legacy_array;

/// Open Inference Protocol over REST and gRPC.
mod open_inference;

/// `GET /`: the page, which is also the response to a plain form post.
pub mod page;

/// `POST /predict`: inference on an image.
pub mod predict;

/// Body, conditional response and cache headers that several routes share.
mod prediction;

/// `POST /input/{model}`: the image after preprocessing.
pub mod preview;
