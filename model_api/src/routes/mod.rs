//! One file for each thing that can be asked: extract → call → render.

mod ask;
pub mod fallback;
pub mod health;
pub mod home;
pub mod input;
pub mod list;
pub mod predict;
