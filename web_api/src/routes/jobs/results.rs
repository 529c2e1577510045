use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use db_api::jobs::Job;
use futures_util::stream;
use http::{HeaderMap, header};
use serde::Deserialize;

use super::csv;
use crate::error::Error;
use crate::http::extract::job_path::JobPath;
use crate::job_views::{ResultBody, results_page};
use crate::state::AppState;

/// Maximum number of results that are read from the queue at a time.
const CHUNK_RESULTS: u32 = 500;

/// Maximum size of results that are read at a time, in bytes. A chunk has at least one result.
const CHUNK_BYTES: usize = 1 << 20;

/// Query parameter `?format=`.
#[derive(Debug, Default, Deserialize)]
pub struct ResultsQuery {
    format: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ResultsFormat {
    Ndjson,
    Csv,
}

/// `GET /jobs/{id}/results`: one line for each input that has ended, in the order of the inputs.
pub async fn download(
    State(app): State<AppState>,
    JobPath(job): JobPath,
    query: Result<Query<ResultsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let parameter = query.ok().and_then(|Query(query)| query.format);
    let format = ResultsFormat::negotiate(parameter.as_deref(), &headers)?;
    // Read before the response head is sent, so that an unavailable queue is an error instead of an empty response.
    let (first, next) = lines(&app, &job, 0, format).await?;
    let head = if format == ResultsFormat::Csv { csv::HEADER } else { "" };
    let first = Bytes::from(head.to_owned() + &first);
    let (media_type, extension) = match format {
        ResultsFormat::Ndjson => ("application/x-ndjson", "ndjson"),
        ResultsFormat::Csv => ("text/csv; charset=utf-8", "csv"),
    };
    let disposition = format!("attachment; filename=\"{}-{}.{extension}\"", job.model, &job.id.to_string()[..8]);
    let rest = stream::unfold((app, job, next), move |(app, job, from)| async move {
        if from >= job.total {
            return None;
        }
        // An error aborts the response, so that the client detects that it is incomplete.
        let (lines, next) = match lines(&app, &job, from, format).await {
            Ok((lines, next)) => (Ok(Bytes::from(lines)), next),
            Err(error) => (Err(std::io::Error::other(error)), job.total),
        };
        Some((lines, (app, job, next)))
    });
    let body = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
    let headers = [
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

impl ResultsFormat {
    /// The query parameter wins over `Accept`. The default is NDJSON.
    fn negotiate(parameter: Option<&str>, headers: &HeaderMap) -> Result<Self, Error> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match parameter {
            Some("csv") => Ok(Self::Csv),
            Some("ndjson") => Ok(Self::Ndjson),
            Some(_) => Err(Error::InvalidJobRequest("format is csv or ndjson".to_owned())),
            None if accept.contains("text/csv") => Ok(Self::Csv),
            None => Ok(Self::Ndjson),
        }
    }
}

/// Returns lines for a chunk of inputs starting at `from`, and the index of the first input after it.
async fn lines(app: &AppState, job: &Job, from: u32, format: ResultsFormat) -> Result<(String, u32), Error> {
    let mut lines = String::new();
    let page = results_page(&app.jobs, job.id, from..job.total.min(from + CHUNK_RESULTS), CHUNK_BYTES).await?;
    for (index, name, outcome) in &page.results {
        let index = *index;
        match format {
            ResultsFormat::Ndjson => {
                let body = ResultBody::new(index, name, outcome)?;
                lines += &serde_json::to_string(&body).map_err(|_| Error::Internal)?;
                lines.push('\n');
            }
            ResultsFormat::Csv => lines += &csv::row(index, name, outcome),
        }
    }
    Ok((lines, page.next))
}
