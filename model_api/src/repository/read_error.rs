//! Read errors of model files, with the file name and a remedy.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Describes why a file or folder cannot be read. The text contains the name and not the path.
pub fn describe_read_error(path: &Path, error: &io::Error) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    if error.kind() != io::ErrorKind::PermissionDenied {
        return format!("{name} cannot be read: {error}");
    }
    // If the entry is not visible, its folder cannot be entered.
    let (what, mode) = if path.is_dir() { ("folder ", "a+rx") } else { ("", "a+r") };
    let user = effective_user().map(|id| format!(" (uid {id})")).unwrap_or_default();
    format!(
        "{what}{name} cannot be read by the user that the service runs as{user}: run chmod {mode} on it and its folder"
    )
}

/// Largest settings file that is read, bytes. A file with a million labels is smaller.
pub const MAX_SETTINGS_FILE_BYTES: u64 = 16 << 20;

/// Reads a settings file. The error contains the name of the file and, if the file is too large, the limit.
pub fn read_settings_file(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        file.take(MAX_SETTINGS_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| describe_read_error(path, &error))?;
    if bytes.len() as u64 > MAX_SETTINGS_FILE_BYTES {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        return Err(format!(
            "{name} is larger than {MAX_SETTINGS_FILE_BYTES} bytes, which is the limit; make it smaller"
        ));
    }
    Ok(bytes)
}

/// The effective user ID of this process.
fn effective_user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversized_settings_file_is_reported_with_the_limit() {
        let path = std::env::temp_dir().join(format!("model_api-settings-{}.json", std::process::id()));
        File::create(&path).unwrap().set_len(MAX_SETTINGS_FILE_BYTES + 1).unwrap();
        let words = read_settings_file(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(words.contains(".json is larger than 16777216 bytes") && !words.contains('/'), "{words}");
    }

    #[test]
    fn an_unreadable_file_is_reported_with_a_remedy() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let file = describe_read_error(Path::new("/models/m/model.onnx"), &denied);
        assert!(file.starts_with("model.onnx cannot be read by the user that the service runs as (uid "), "{file}");
        assert!(file.ends_with("run chmod a+r on it and its folder") && !file.contains("/models"), "{file}");
        let folder = describe_read_error(&std::env::temp_dir(), &denied);
        assert!(folder.starts_with("folder ") && folder.contains("chmod a+rx"), "{folder}");
        let missing = describe_read_error(Path::new("w.bin"), &io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(missing, "w.bin cannot be read: entity not found");
    }
}
