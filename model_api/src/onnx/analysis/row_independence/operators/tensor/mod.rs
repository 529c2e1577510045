//! Operators that move, select or repeat elements.

pub mod gather;
pub mod layout;
pub mod shape;
