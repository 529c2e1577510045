//! Shutdown signals.

use std::future::Future;
use std::process;

use tokio::signal::unix::{self, Signal, SignalKind};
use tracing::{info, warn};

/// Resolves at the first SIGTERM or SIGINT. A second signal exits the process immediately.
///
/// The handlers are installed when this function is called, not when the future is first polled, so that no signal is
/// lost.
pub fn signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = unix::signal(SignalKind::terminate())?;
    let mut interrupt = unix::signal(SignalKind::interrupt())?;
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        info!("shutdown requested, draining connections");
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            warn!("second shutdown signal, exiting without draining");
            process::exit(1);
        });
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
