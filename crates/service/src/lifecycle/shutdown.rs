use std::future::Future;
use std::process;

use tokio::signal::unix::{self, Signal, SignalKind};
use tracing::{info, warn};

/// Resolves at the first SIGTERM or SIGINT; a second one ends the process at once.
///
/// The handlers are installed when this is called, not when the future is first polled, so no signal is missed.
pub fn signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = unix::signal(SignalKind::terminate())?;
    let mut interrupt = unix::signal(SignalKind::interrupt())?;
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        info!("asked to stop: finishing what was begun");
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            warn!("asked to stop again: ending at once");
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
