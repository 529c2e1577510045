//! Errors of reading a model's files, in words that name the file and the remedy.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Why a file or folder cannot be read, without its path. `error` is what the system said.
pub fn describe_read_error(path: &Path, error: &io::Error) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    if error.kind() != io::ErrorKind::PermissionDenied {
        return format!("{name} cannot be read: {error}");
    }
    // What cannot even be looked at lies in a folder that cannot be entered.
    let (what, mode) = if path.is_dir() { ("folder ", "a+rx") } else { ("", "a+r") };
    let user = effective_user().map(|id| format!(" (uid {id})")).unwrap_or_default();
    format!(
        "{what}{name} cannot be read by the user that the service runs as{user}: run chmod {mode} on it and its folder"
    )
}

/// Longest settings file that is read, bytes. A million labels have less.
pub const MAX_SETTINGS_FILE_BYTES: u64 = 16 << 20;

/// Reads a settings file. The error names the file, without its path, and the limit where it is larger.
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

/// The effective user, as Linux shows it.
fn effective_user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_file_that_is_too_large_is_named_with_the_limit() {
        let path = std::env::temp_dir().join(format!("model_api-settings-{}.json", std::process::id()));
        File::create(&path).unwrap().set_len(MAX_SETTINGS_FILE_BYTES + 1).unwrap();
        let words = read_settings_file(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(words.contains(".json is larger than 16777216 bytes") && !words.contains('/'), "{words}");
    }

    #[test]
    fn a_file_that_others_may_not_read_is_named_with_the_remedy() {
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
