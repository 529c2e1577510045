//! Size-bounded log file: copies standard input to a file and rotates it.
//!
//! A native start pipes each service into this subcommand (`web_api log`). It is a separate process because the
//! service, its child processes, the C++ code of ONNX Runtime and panics all write to one pipe. Rotation within the
//! service would miss all but the first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size limit of the file. The previous file is kept as `NAME.1`. Equals `max-size` in docker-compose.yml.
const MAX_FILE_BYTES: u64 = 10 << 20;

/// Bytes that are searched for the end of a line. A longer line may be split across two files.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Copies standard input to the file at `path` until end of file. Only the owner of the file can read it.
///
/// # Errors
///
/// If the file cannot be opened. Later failures, such as a full disk, lose lines but do not stop the copy: the writers
/// must not get `EPIPE`.
pub fn copy_stdin(path: &Path) -> io::Result<()> {
    let mut file = LogFile::open(path, MAX_FILE_BYTES)?;
    copy(io::stdin().lock(), |lines| {
        let _ = file.write(lines);
    })
}

/// Passes on whole lines as soon as they arrive, so that none is split across two files.
fn copy(from: impl io::Read, mut write: impl FnMut(&[u8])) -> io::Result<()> {
    let mut from = BufReader::with_capacity(MAX_LINE_BYTES, from);
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            write(&pending);
            return Ok(());
        }
        let length = bytes.len();
        pending.extend_from_slice(bytes);
        from.consume(length);
        let is_too_long = pending.len() > MAX_LINE_BYTES;
        let end = pending.iter().rposition(|&byte| byte == b'\n').map(|index| index + 1);
        if let Some(end) = end.or(is_too_long.then_some(pending.len())) {
            write(&pending[..end]);
            pending.drain(..end);
        }
    }
}

/// File that is renamed to `NAME.1` when it is full.
struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    max_length: u64,
}

impl LogFile {
    fn open(path: &Path, max_length: u64) -> io::Result<Self> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, max_length })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + lines.len() as u64 > self.max_length {
            self.rotate()?;
        }
        self.length += lines.len() as u64;
        self.file.write_all(lines)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut rotated = self.path.clone().into_os_string();
        rotated.push(".1");
        fs::rename(&self.path, rotated)?;
        self.file = open(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn full_file_is_rotated_and_both_files_stay_within_the_limit() {
        let folder = std::env::temp_dir().join(format!("log_file-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("service.log");
        let mut file = LogFile::open(&path, 100).unwrap();
        for number in 0..50 {
            file.write(format!("line {number:02}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let (now, before) = (read("service.log"), read("service.log.1"));
        assert!(now.len() <= 100 && before.len() <= 100, "{} {}", now.len(), before.len());
        let lines: Vec<String> = before.lines().chain(now.lines()).map(str::to_owned).collect();
        let last: Vec<String> = (50 - lines.len()..50).map(|number| format!("line {number:02}")).collect();
        assert_eq!(lines, last, "the last lines, whole and in order");
        for name in ["service.log", "service.log.1"] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn lines_are_passed_on_whole_and_an_long_line_is_split() {
        let mut written: Vec<Vec<u8>> = Vec::new();
        let long = vec![b'x'; 3 * MAX_LINE_BYTES];
        let input = [b"a\nb\nc".as_slice(), &long].concat();
        copy(&input[..], |lines| written.push(lines.to_vec())).unwrap();
        assert_eq!(written.concat(), input);
        assert_eq!(written[0], b"a\nb\n");
        assert!(written.iter().all(|lines| lines.len() <= 2 * MAX_LINE_BYTES));
    }
}
