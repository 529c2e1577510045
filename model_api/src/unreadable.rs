//! Errors of reading a model's files, in words that name the file and the remedy.

use std::io;
use std::path::Path;

/// Why a file or folder cannot be read, without its path. `error` is what the system said.
pub fn unreadable(path: &Path, error: &io::Error) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    if error.kind() != io::ErrorKind::PermissionDenied {
        return format!("{name} cannot be read: {error}");
    }
    // What cannot even be looked at lies in a folder that cannot be entered.
    let (what, mode) = if path.is_dir() { ("folder ", "a+rx") } else { ("", "a+r") };
    let user = user().map(|id| format!(" (uid {id})")).unwrap_or_default();
    format!(
        "{what}{name} cannot be read by the user that the service runs as{user}: run chmod {mode} on it and its folder"
    )
}

/// The effective user, as Linux shows it.
fn user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_not_read_is_named_with_the_remedy() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let file = unreadable(Path::new("/models/m/model.onnx"), &denied);
        assert!(file.starts_with("model.onnx cannot be read by the user that the service runs as (uid "), "{file}");
        assert!(file.ends_with("run chmod a+r on it and its folder") && !file.contains("/models"), "{file}");
        let folder = unreadable(&std::env::temp_dir(), &denied);
        assert!(folder.starts_with("folder ") && folder.contains("chmod a+rx"), "{folder}");
        let missing = unreadable(Path::new("w.bin"), &io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(missing, "w.bin cannot be read: entity not found");
    }
}
