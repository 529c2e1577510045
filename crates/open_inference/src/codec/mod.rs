//! Codecs: tensors to and from bytes, JSON, base64, dates, table columns, class lists and images.

pub(crate) mod base64;
pub(crate) mod binary;
pub(crate) mod byte_budget;
pub(crate) mod class_map;
pub(crate) mod classification;
pub(crate) mod content_type;
pub(crate) mod datetime;
pub(crate) mod json;
pub(crate) mod pandas;
pub(crate) mod png;
pub(crate) mod strings;
