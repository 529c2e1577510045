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

use super::SessionError;
use super::ending::Ending;
use super::frame::{self, Order, Reply};
use super::onnx::Onnx;

/// Of 1000: sessions are ended long before the service, which may start new ones.
const OOM_SCORE: &str = "500";

/// The child process `model_api session`: opens the model it is told to, then runs it until the parent goes away.
pub fn main() -> ExitCode {
    let (Ok(mut orders), Ok(endings)) = (parent(io::stdin().as_fd()), parent(io::stdout().as_fd())) else {
        eprintln!("model_api session is started by model_api, never by hand");
        return ExitCode::from(64);
    };
    // Where memory runs out in spite of all limits, the system is to end a session and not the service.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        debug!(%error, "the session is as likely as the service to be ended where memory runs out");
    }
    match serve(&mut orders, endings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the session ends");
            ExitCode::FAILURE
        }
    }
}

/// One end of a socket pair; a descriptor of any other kind has no local address.
fn parent(descriptor: BorrowedFd) -> io::Result<UnixStream> {
    let socket = UnixStream::from(descriptor.try_clone_to_owned()?);
    socket.local_addr()?;
    Ok(socket)
}

fn serve(orders: &mut UnixStream, endings: UnixStream) -> io::Result<()> {
    let ending = Arc::new(Ending::default());
    // Standard output leads there, and the parent never reads it: whatever some library prints is not to pile up.
    endings.shutdown(Shutdown::Write)?;
    thread::spawn({
        let ending = Arc::clone(&ending);
        move || ending.listen(endings)
    });
    let mut socket = io::BufReader::new(orders.try_clone()?);
    let (Order::Load(load), _) = frame::read(&mut socket)? else {
        return Err(io::Error::other("the first order was not to load a model"));
    };
    let (mut model, hello) = match Onnx::open(&load) {
        Ok(opened) => opened,
        Err(failure) => return frame::write(orders, &Reply::Failed(failure), &[]),
    };
    ending.arm(model.interrupt());
    frame::write(orders, &Reply::Hello(Box::new(hello)), &[])?;
    while let Ok((order, inputs)) = frame::read(&mut socket) {
        let ran = match order {
            Order::Run(number) if ending.begin(number) => model.run(&inputs),
            Order::Run(_) => Err(SessionError::GivenUp),
            Order::KeepSize(rows) => model.keep_size(rows).map(|()| Vec::new()).map_err(SessionError::Refused),
            Order::Load(_) => return Err(io::Error::other("a second model cannot be loaded")),
        };
        match ran {
            Ok(outputs) => answer(orders, &outputs)?,
            Err(SessionError::Refused(reason)) => frame::write(orders, &Reply::Refused(reason), &[])?,
            Err(SessionError::GivenUp) => frame::write(orders, &Reply::Terminated, &[])?,
            Err(SessionError::TooLarge(bytes)) => frame::write(orders, &Reply::TooLarge(bytes), &[])?,
            Err(SessionError::OutOfMemory(exceeded)) => return Err(io::Error::other(exceeded.to_string())),
            Err(SessionError::Died(reason)) => return Err(io::Error::other(reason)),
        }
    }
    Ok(())
}

/// An answer that is too large for a frame is a refusal: nothing of it has been sent, and the session is as good as before.
fn answer(socket: &mut UnixStream, outputs: &[Tensor]) -> io::Result<()> {
    match frame::write(socket, &Reply::Answer, outputs) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            frame::write(socket, &Reply::Refused("the answer is too large".to_owned()), &[])
        }
        written => written,
    }
}
