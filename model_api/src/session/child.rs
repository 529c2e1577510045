use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread;

use open_inference::Tensor;
use tracing::error;

use super::SessionError;
use super::frame::{self, Order, Reply};
use super::onnx::{Interrupt, Onnx};

/// The child process `model_api session`: opens the model it is told to, then runs it until the parent goes away.
pub fn main() -> ExitCode {
    let Ok(mut socket) = parent() else {
        eprintln!("model_api session is started by model_api, never by hand");
        return ExitCode::from(64);
    };
    match serve(&mut socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the session ends");
            ExitCode::FAILURE
        }
    }
}

/// Standard input is one end of a socket pair; a descriptor of any other kind has no local address.
fn parent() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr()?;
    Ok(socket)
}

fn serve(socket: &mut UnixStream) -> io::Result<()> {
    let interrupt = Arc::new(OnceLock::new());
    let orders = read_orders(socket.try_clone()?, Arc::clone(&interrupt));
    let Ok((Order::Load(load), _)) = orders.recv() else {
        return Err(io::Error::other("the first order was not to load a model"));
    };
    let (mut model, hello) = match Onnx::open(&load) {
        Ok(opened) => opened,
        Err(failure) => return frame::write(socket, &Reply::Failed(failure), &[]),
    };
    let _ = interrupt.set(model.interrupt());
    frame::write(socket, &Reply::Hello(hello), &[])?;
    while let Ok((_, inputs)) = orders.recv() {
        match model.run(&inputs) {
            Ok(outputs) => answer(socket, &outputs)?,
            Err(SessionError::Refused(reason)) => frame::write(socket, &Reply::Refused(reason), &[])?,
            Err(SessionError::GivenUp) => frame::write(socket, &Reply::Terminated, &[])?,
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

/// Reads on a thread of its own, so that the parent's end is noticed also while a run hangs, and ends the process then; and so
/// that a run can be told to end.
fn read_orders(socket: UnixStream, interrupt: Arc<OnceLock<Interrupt>>) -> Receiver<(Order, Vec<Tensor>)> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        let mut socket = io::BufReader::new(socket);
        while let Ok((order, tensors)) = frame::read(&mut socket) {
            // Before the run's order goes on: a run that is ended before it has begun is ended as well.
            match (&order, interrupt.get()) {
                (Order::Terminate, interrupt) => {
                    interrupt.inspect(|interrupt| interrupt.set());
                    continue;
                }
                (Order::Run, Some(interrupt)) => interrupt.clear(),
                _ => {}
            }
            if sender.send((order, tensors)).is_err() {
                break;
            }
        }
        process::exit(0);
    });
    orders
}
