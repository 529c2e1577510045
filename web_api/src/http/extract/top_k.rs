use axum::extract::{FromRequestParts, Query};
use contract::TopK;
use http::request::Parts;
use serde::Deserialize;

use crate::error::Error;

/// Query parameter `?top_k=`: the number of classes that a response lists.
#[derive(Debug)]
pub struct TopKParameter(pub TopK);

impl<S: Sync> FromRequestParts<S> for TopKParameter {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parse_top_k(parts.uri.query()).map(Self)
    }
}

/// Parses `top_k` of a query. Returns the default where it is absent.
pub(crate) fn parse_top_k(query: Option<&str>) -> Result<TopK, Error> {
    #[derive(Deserialize)]
    struct Parameters {
        top_k: Option<String>,
    }
    let Some(query) = query.filter(|query| query.contains("top_k")) else { return Ok(TopK::Default) };
    let uri = http::Uri::try_from(format!("/?{query}")).map_err(|_| Error::Internal)?;
    let Query(Parameters { top_k }) =
        Query::try_from_uri(&uri).map_err(|error| Error::InvalidQuery(error.body_text()))?;
    Ok(top_k.map_or(Ok(TopK::Default), |text| text.parse())?)
}
