//! The limits that nothing can exceed, each as small as it can be written:
//!
//!     limits constant PORT              a constant response
//!     limits moka PORT                  a response cached under the SHA-256 of the body, in this process
//!     limits redis PORT REDIS_URL       the same in a Redis
//!     limits one-process PORT MODEL     HTTP, decoding and ONNX Runtime in one process, a request at a time
//!     limits raw MODEL SECONDS          ONNX Runtime alone; prints a line of JSON
//!     limits isolation PROGRAM MODEL SECONDS    sessions in children of PROGRAM (model_api) and in this process; likewise
//!
//! MODEL is the mnist network's file; `ORT_DYLIB_PATH` names the library. The servers listen on loopback and answer
//! `POST /predict/mnist`, one-process also `POST /v2/models/mnist/infer` with a binary tensor.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bench::limits::{hits, isolation, one_process, raw};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limits: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(words: &[&str]) -> anyhow::Result<()> {
    let (port, routes) = match *words {
        ["raw", model, seconds] => {
            let seconds = Duration::try_from_secs_f64(seconds.parse()?)?;
            println!("{}", serde_json::to_string(&raw::measure(model.as_ref(), seconds)?)?);
            return Ok(());
        }
        ["isolation", program, model, seconds] => {
            let seconds = Duration::try_from_secs_f64(seconds.parse()?)?;
            let figures = isolation::measure(program.as_ref(), model.as_ref(), seconds).await?;
            println!("{}", serde_json::to_string(&figures)?);
            return Ok(());
        }
        ["constant", port] => (port, hits::constant()),
        ["moka", port] => (port, hits::near()),
        ["redis", port, url] => (port, hits::redis(url).await?),
        ["one-process", port, model] => (port, one_process::routes(model.as_ref())?),
        _ => bail!("one of constant, moka, redis, one-process, raw and isolation, as in the module documentation"),
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await?;
    #[allow(clippy::disallowed_methods, reason = "the simplest server, for the benchmark alone")]
    axum::serve(listener, routes).await.context("serving")
}
