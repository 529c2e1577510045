use std::future::Future;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// Resolves at the first SIGTERM or SIGINT; a second one ends the process at once.
///
/// The handlers are installed when this is called, not when the future is first polled, so no signal is missed.
pub fn signalled() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        any(&mut terminate, &mut interrupt).await;
        info!("asked to stop: finishing what was begun");
        tokio::spawn(async move {
            any(&mut terminate, &mut interrupt).await;
            warn!("asked to stop again: ending at once");
            process::exit(1);
        });
    })
}

async fn any(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
