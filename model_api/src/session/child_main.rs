//! Main function of a child process, `model_api session`: loads one model and runs it until the parent closes the socket.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use open_inference::Tensor;
use tracing::{debug, error};

use super::cancellation::RunCancellation;
use super::error::SessionError;
use super::frame::{self, Request, Response};
use super::onnx::OnnxModel;

/// `oom_score_adj` of sessions, out of 1000: the kernel kills a session long before the service, which can start new ones.
const OOM_SCORE: &str = "500";

/// Runs the child process. Standard input carries requests and responses, standard output carries cancellations.
pub fn child_main() -> ExitCode {
    let (Ok(mut requests), Ok(cancellations)) = (parent(io::stdin().as_fd()), parent(io::stdout().as_fd())) else {
        eprintln!("model_api session is a child process of model_api: model_api starts it, never by hand");
        return ExitCode::from(64);
    };
    // If memory runs out in spite of all limits, the kernel is to kill a session instead of the service.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        debug!(%error, "cannot raise oom_score_adj: the kernel may kill the service before a session");
    }
    match serve(&mut requests, cancellations) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "session process failed");
            ExitCode::FAILURE
        }
    }
}

/// One end of a socket pair. A descriptor of any other kind has no local address.
fn parent(descriptor: BorrowedFd) -> io::Result<UnixStream> {
    let socket = UnixStream::from(descriptor.try_clone_to_owned()?);
    socket.local_addr()?;
    Ok(socket)
}

fn serve(requests: &mut UnixStream, cancellations: UnixStream) -> io::Result<()> {
    let cancellation = Arc::new(RunCancellation::default());
    // Standard output is this socket, which the parent never reads. Output that some library prints must not accumulate there.
    cancellations.shutdown(Shutdown::Write)?;
    thread::spawn({
        let cancellation = Arc::clone(&cancellation);
        move || cancellation.listen(cancellations)
    });
    let mut socket = io::BufReader::new(requests.try_clone()?);
    let (Request::Load(load), _) = frame::read(&mut socket)? else {
        return Err(io::Error::other("the first request must load a model"));
    };
    let (mut model, info) = match OnnxModel::open(&load) {
        Ok(opened) => opened,
        Err(failure) => return frame::write(requests, &Response::Failed(failure), &[]),
    };
    cancellation.set_flag(model.cancel_flag());
    frame::write(requests, &Response::Ready(Box::new(info)), &[])?;
    while let Ok((request, inputs)) = frame::read(&mut socket) {
        let result = match request {
            Request::Run(number) if cancellation.begin_run(number) => model.run(&inputs),
            Request::Run(_) => Err(SessionError::Cancelled),
            Request::AddBucket(rows) => model.add_bucket(rows).map(|()| Vec::new()).map_err(SessionError::Rejected),
            Request::Load(_) => return Err(io::Error::other("a second model cannot be loaded")),
        };
        match result {
            Ok(outputs) => respond(requests, &outputs)?,
            Err(SessionError::Rejected(reason)) => frame::write(requests, &Response::Rejected(reason), &[])?,
            Err(SessionError::Cancelled) => frame::write(requests, &Response::Cancelled, &[])?,
            Err(SessionError::OutputsTooLarge(bytes)) => {
                frame::write(requests, &Response::OutputsTooLarge(bytes), &[])?;
            }
            Err(SessionError::OutOfMemory(exceeded)) => return Err(io::Error::other(exceeded.to_string())),
            Err(SessionError::Crashed(reason)) => return Err(io::Error::other(reason)),
        }
    }
    Ok(())
}

/// Sends the outputs. Outputs that are too large for a frame become a rejection: nothing has been sent, and the session remains
/// usable.
fn respond(socket: &mut UnixStream, outputs: &[Tensor]) -> io::Result<()> {
    match frame::write(socket, &Response::Outputs, outputs) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let reason = "the outputs of this request are too large for a session; send fewer rows".to_owned();
            frame::write(socket, &Response::Rejected(reason), &[])
        }
        written => written,
    }
}
