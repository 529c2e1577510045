//! How much memory a card has left. The driver's own program tells: asking CUDA would take a context on the card, in a
//! process that is not to have one.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// So long the driver may take to tell.
const PATIENCE: Duration = Duration::from_secs(5);

/// An error, in words, unless half of the card's memory is free: sessions and their runs need some, and so do others.
pub async fn has_room() -> Result<(), String> {
    let ask = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, ask).await {
        Ok(Ok(said)) if said.status.success() => room(&String::from_utf8_lossy(&said.stdout)),
        _ => Err(UNKNOWN.to_owned()),
    }
}

const UNKNOWN: &str = "nvidia-smi does not tell how much memory the card has left";

/// A line for each card, as `free, total`. Which of them CUDA takes is not said, so each must have room.
fn room(said: &str) -> Result<(), String> {
    let mut cards = 0;
    for line in said.lines() {
        let (free, total) = line.split_once(',').ok_or(UNKNOWN)?;
        let mib = |text: &str| text.trim().parse::<u64>().map_err(|_| UNKNOWN);
        let (free, total) = (mib(free)?, mib(total)?);
        if free < total / 2 {
            return Err(format!("{free} MiB of the card's {total} MiB are free, which is less than half"));
        }
        cards += 1;
    }
    if cards > 0 { Ok(()) } else { Err(UNKNOWN.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_where_half_of_each_card_is_free() {
        assert_eq!(room("138291, 143771\n"), Ok(()));
        assert_eq!(room("8192, 8192\n4096, 8192\n"), Ok(()));
        let full = "3000 MiB of the card's 8192 MiB are free, which is less than half";
        assert_eq!(room("8192, 8192\n3000, 8192\n"), Err(full.to_owned()));
        for nonsense in ["", "No devices were found\n", "[N/A], [N/A]\n", "12, \n"] {
            assert_eq!(room(nonsense), Err(UNKNOWN.to_owned()), "{nonsense:?}");
        }
    }
}
