//! Operators of neural networks: attention, normalization, recurrence, convolution and pooling.

pub mod attention;
pub mod normalization;
pub mod recurrent;
pub mod window;
