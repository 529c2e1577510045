use std::collections::HashMap;

use super::super::{Job, JobError, JobId, Status, Told, Webhook};

/// A job from its fields in Redis: `None` where there are none of a job, an error where one of them cannot be read.
pub fn read_job(id: JobId, fields: &HashMap<String, String>) -> Result<Option<Job>, JobError> {
    let unreadable = |field: &str| JobError::Unreadable { job: id, field: field.to_owned() };
    let number = |field: &str| {
        let parse = |number: &String| number.parse::<u64>().map_err(|_| unreadable(field));
        fields.get(field).map(parse).transpose()
    };
    let count = |field: &str| u32::try_from(number(field)?.unwrap_or_default()).map_err(|_| unreadable(field));
    let Some(status) = fields.get("status") else { return Ok(None) };
    let (finished_ms, ttl) = (number("finished")?, number("ttl")?);
    let expires = |(finished, ttl): (u64, u64)| finished.checked_add(ttl).ok_or_else(|| unreadable("ttl"));
    let webhook = |url: &String| {
        let told = match fields.get("webhook_told").map(String::as_str) {
            Some(told) if told == Told::Delivered.as_str() => Some(Told::Delivered),
            Some(_) => Some(Told::Failed),
            None => None,
        };
        let error = fields.get("webhook_error").cloned();
        Ok(Webhook { url: url.clone(), tries: count("webhook_tries")?, told, error })
    };
    Ok(Some(Job {
        id,
        model: fields.get("model").ok_or_else(|| unreadable("model"))?.clone(),
        status: status.parse::<Status>().map_err(|()| unreadable("status"))?,
        total: count("total")?,
        done: count("done")?,
        failed: count("failed")?,
        dead: count("dead")?,
        runs: count("runs")?,
        created_ms: number("created")?.ok_or_else(|| unreadable("created"))?,
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
    fn a_job_whose_fields_cannot_be_read_is_an_error_that_names_the_field() {
        let id = JobId::random();
        let job = read_job(id, &fields(&[])).unwrap().unwrap();
        assert_eq!((job.total, job.done, job.expires_ms), (2, 0, Some(5)));
        assert_eq!(read_job(id, &HashMap::new()), Ok(None));
        let bad = [
            ("total", "x"),
            ("done", "-1"),
            ("failed", "5000000000"),
            ("ttl", "18446744073709551615"),
            ("status", "?"),
        ];
        for (field, value) in bad {
            let error = JobError::Unreadable { job: id, field: field.to_owned() };
            assert_eq!(read_job(id, &fields(&[(field, value)])), Err(error), "{field}");
        }
    }
}
