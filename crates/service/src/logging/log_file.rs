//! Size-bounded log file: copies standard input to a file and rotates it.
//!
//! A native start pipes each service into this (`web_api log`). It is a process of its own because several write to one pipe: the
//! service, its child processes, ONNX Runtime's C++ code and panics. Rotation within the service would miss all but the first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of the file; the one before it is kept as `NAME.1`. Docker's `max-size` in docker-compose.yml is the same.
const MAX_FILE_BYTES: u64 = 10 << 20;

/// Bytes of a line that are looked for its end; a longer one may be torn between two files.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Copies standard input to the file at `path` until its end. Only the file's owner can read it.
///
/// # Errors
/// Where the file cannot be opened. Later failures (a full disk) lose lines and end nothing: the writers must not see a broken pipe.
pub fn copy_stdin(path: &Path) -> io::Result<()> {
    let mut file = LogFile::open(path, MAX_FILE_BYTES)?;
    copy(io::stdin().lock(), |lines| {
        let _ = file.write(lines);
    })
}

/// Hands on whole lines, so that none is torn between two files, as soon as they arrive.
fn copy(from: impl io::Read, mut write: impl FnMut(&[u8])) -> io::Result<()> {
    let mut from = BufReader::with_capacity(MAX_LINE_BYTES, from);
    let mut begun: Vec<u8> = Vec::new();
    loop {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            write(&begun);
            return Ok(());
        }
        let length = bytes.len();
        begun.extend_from_slice(bytes);
        from.consume(length);
        let is_too_long = begun.len() > MAX_LINE_BYTES;
        let end = begun.iter().rposition(|&byte| byte == b'\n').map(|place| place + 1);
        if let Some(end) = end.or(is_too_long.then_some(begun.len())) {
            write(&begun[..end]);
            begun.drain(..end);
        }
    }
}

/// A file that is renamed to `NAME.1`, over the one before, when it is full.
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
        let mut before = self.path.clone().into_os_string();
        before.push(".1");
        fs::rename(&self.path, before)?;
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
    fn a_full_file_is_renamed_and_both_together_stay_below_twice_the_bound() {
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
    fn lines_are_handed_on_whole_and_an_endless_one_is_bounded() {
        let mut written: Vec<Vec<u8>> = Vec::new();
        let endless = vec![b'x'; 3 * MAX_LINE_BYTES];
        let input = [b"a\nb\nc".as_slice(), &endless].concat();
        copy(&input[..], |lines| written.push(lines.to_vec())).unwrap();
        assert_eq!(written.concat(), input);
        assert_eq!(written[0], b"a\nb\n");
        assert!(written.iter().all(|lines| lines.len() <= 2 * MAX_LINE_BYTES));
    }
}
