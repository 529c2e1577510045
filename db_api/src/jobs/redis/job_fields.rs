use std::collections::HashMap;

use crate::jobs::error::JobError;
use crate::jobs::id::JobId;
use crate::jobs::types::{Job, JobStatus};
use crate::jobs::webhook::{DeliveryStatus, Webhook};

/// Parses a job from the fields of its hash in Redis. `None` where the hash is absent or only an upload, an error for an invalid field.
pub fn parse_job(id: JobId, fields: &HashMap<String, String>) -> Result<Option<Job>, JobError> {
    let corrupt = |field: &str| JobError::CorruptJob { job: id, field: field.to_owned() };
    let number = |field: &str| {
        let parse = |number: &String| number.parse::<u64>().map_err(|_| corrupt(field));
        fields.get(field).map(parse).transpose()
    };
    let count = |field: &str| u32::try_from(number(field)?.unwrap_or_default()).map_err(|_| corrupt(field));
    let Some(status) = fields.get("status") else { return Ok(None) };
    let (finished_ms, ttl) = (number("finished")?, number("ttl")?);
    let expires = |(finished, ttl): (u64, u64)| finished.checked_add(ttl).ok_or_else(|| corrupt("ttl"));
    let webhook = |url: &String| {
        let delivery = match fields.get("webhook_told").map(String::as_str) {
            Some(status) if status == DeliveryStatus::Delivered.as_str() => Some(DeliveryStatus::Delivered),
            Some(_) => Some(DeliveryStatus::Failed),
            None => None,
        };
        let error = fields.get("webhook_error").cloned();
        Ok(Webhook { url: url.clone(), attempts: count("webhook_tries")?, delivery, error })
    };
    Ok(Some(Job {
        id,
        model: fields.get("model").ok_or_else(|| corrupt("model"))?.clone(),
        status: status.parse::<JobStatus>().map_err(|()| corrupt("status"))?,
        total: count("total")?,
        done: count("done")?,
        failed: count("failed")?,
        dead: count("dead")?,
        runs: count("runs")?,
        created_ms: number("created")?.ok_or_else(|| corrupt("created"))?,
        started_ms: number("started")?,
        finished_ms,
        expires_ms: finished_ms.zip(ttl).map(expires).transpose()?,
        webhook: fields.get("webhook").map(webhook).transpose()?,
        skipped: fields.get("skipped").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(changed: &[(&str, &str)]) -> HashMap<String, String> {
        let all =
            [("status", "failed"), ("model", "m"), ("total", "2"), ("created", "1"), ("finished", "2"), ("ttl", "3")];
        all.iter().chain(changed).map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_invalid_field_of_a_job_is_an_error_that_names_the_field() {
        let id = JobId::random();
        let job = parse_job(id, &fields(&[])).unwrap().unwrap();
        assert_eq!((job.total, job.done, job.expires_ms), (2, 0, Some(5)));
        assert_eq!(parse_job(id, &HashMap::new()), Ok(None));
        let bad = [
            ("total", "x"),
            ("done", "-1"),
            ("failed", "5000000000"),
            ("ttl", "18446744073709551615"),
            ("status", "?"),
        ];
        for (field, value) in bad {
            let error = JobError::CorruptJob { job: id, field: field.to_owned() };
            assert_eq!(parse_job(id, &fields(&[(field, value)])), Err(error), "{field}");
        }
    }
}
