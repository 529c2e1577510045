//! Each file is one thing a client can ask: extract → call → render.

/// `DELETE /cache/{model}`.
pub mod cache;

/// CORS for pages of other origins.
pub mod cors;

/// `GET /docs` and `/openapi.json`: what there is to ask, for people and for programs.
pub mod docs;

/// `GET /health/live` and `/health/ready`.
pub mod health;

/// `POST /input/{model}`: the picture as the model sees it.
pub mod input;

/// `/jobs`: slow and large work.
pub mod jobs;

/// `GET /`, and the page that a plain form post gets.
pub mod page;

/// `POST /predict`: an image → an answer.
pub mod predict;

/// Headers that every answer carries.
pub mod security;

/// `GET /static/{file}`: what the page needs, from inside the binary.
pub mod static_files;

/// `POST /web_api`: the old clients, unchanged.
pub mod web_api;
