//! HTTP handlers, one file for each route: extract, call, render.

mod extract;
pub mod fallback;
pub mod health;
pub mod models;
pub mod open_inference;
pub mod predict;
pub mod preview;
pub mod root;
