//! Load generator: sends requests as fast as possible, or at a fixed rate, and prints one line of JSON.

use std::process::ExitCode;

use bench::arguments::{Arguments, USAGE};
use bench::load::run;

// One thread: the other cores are for what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match run(arguments).await.and_then(|report| Ok(serde_json::to_string(&report)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
