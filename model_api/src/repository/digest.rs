//! Content digest of a model: SHA-256 over everything that its results depend on. It is part of every cache key.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::onnx::external_data;
use crate::onnx::proto::{Model, TensorNames};
use crate::repository::graph_files::is_ort;
use crate::repository::read_error::describe_read_error;

/// Digest of a model, with facts that reading its files has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDigest {
    /// As `sha256:<hex>`.
    pub digest: String,
    /// Size of the graph and its data files.
    pub bytes: u64,
    /// Tensor names of the graph; `None` for a file in ONNX Runtime's own format.
    pub names: Option<TensorNames>,
}

/// Version of the computation: preprocessing of images, and the rules for shared batches. A change that can alter a result
/// increments it, so that results that an older release cached are not used.
const COMPUTATION_VERSION: &[u8] = b"2";

/// Digest of the graph, its external data, the settings, and `others`: names and contents of Triton's configuration and label
/// files.
///
/// Each field is hashed with its name and both lengths, so that two models cannot collide by moving bytes between fields.
pub fn compute(graph: &Path, settings: Option<&[u8]>, others: &[(String, Vec<u8>)]) -> Result<ModelDigest, String> {
    // The graph is read as a whole, since it names the external data files. Those may be much larger and are streamed.
    let onnx = read_graph(graph).map(Bytes::from).map_err(|error| describe_read_error(graph, &error))?;
    let mut hasher = FieldHasher::default();
    hasher.update("graph", &onnx);
    let mut names = None;
    if !is_ort(graph) {
        let model = Model::parse(onnx)?;
        for location in external_data::locations(&model)? {
            let added = external_data::open(graph, &location).and_then(|file| hasher.update_file(&location, file));
            added
                .map_err(|error| format!("data of the graph: {}", describe_read_error(Path::new(&location), &error)))?;
        }
        names = Some(model.tensor_names());
    }
    let bytes = hasher.bytes;
    if let Some(settings) = settings {
        hasher.update("settings", settings);
    }
    hasher.update("computation", COMPUTATION_VERSION);
    for (name, content) in others {
        hasher.update(name, content);
    }
    Ok(ModelDigest { digest: hasher.digest(), bytes, names })
}

/// Digest of a pipeline's settings.
pub fn compute_for_settings(settings: &[u8]) -> String {
    let mut hasher = FieldHasher::default();
    hasher.update("settings", settings);
    hasher.digest()
}

/// Reads the graph. It may be a symbolic link, since the operator controls the folder.
fn read_graph(graph: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(graph)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    fs::read(graph)
}

/// SHA-256 over length-prefixed fields.
#[derive(Default)]
struct FieldHasher {
    hash: Sha256,
    bytes: u64,
}

impl FieldHasher {
    fn update(&mut self, name: &str, bytes: &[u8]) {
        self.start_field(name, bytes.len() as u64);
        self.hash.update(bytes);
    }

    fn update_file(&mut self, name: &str, mut file: File) -> io::Result<()> {
        let length = file.metadata()?.len();
        self.start_field(name, length);
        if io::copy(&mut file, self)? == length {
            Ok(())
        } else {
            Err(io::Error::other("it changed while it was read"))
        }
    }

    fn start_field(&mut self, name: &str, length: u64) {
        self.bytes += length;
        self.hash.update((name.len() as u64).to_le_bytes());
        self.hash.update(name);
        self.hash.update(length.to_le_bytes());
    }

    fn digest(self) -> String {
        let mut digest = "sha256:".to_owned();
        for byte in self.hash.finalize() {
            write!(digest, "{byte:02x}").expect("a string takes everything");
        }
        digest
    }
}

impl io::Write for FieldHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("model_api-digest-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("model.onnx"), graph()).unwrap();
            Self(path)
        }

        fn digest(&self, graph: &str) -> Result<String, String> {
            compute(&self.0.join(graph), Some(b"{}"), &[]).map(|digest| digest.digest)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A graph whose only initializer is in `w.bin`.
    fn graph() -> Vec<u8> {
        let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
        let entry = [field(1, b"location"), field(2, b"w.bin")].concat();
        field(7, &field(5, &field(13, &entry)))
    }

    #[test]
    fn every_field_is_hashed_with_its_name_and_both_lengths() {
        let folder = Folder::new("parts");
        // Larger than the buffer of `io::copy`.
        let weights = vec![7; 100_000];
        fs::write(folder.0.join("w.bin"), &weights).unwrap();
        let mut all = Vec::new();
        for (name, bytes) in [
            ("graph", graph().as_slice()),
            ("w.bin", &weights),
            ("settings", b"{}"),
            ("computation", COMPUTATION_VERSION),
        ] {
            for part in [name.as_bytes(), bytes] {
                all.extend_from_slice(&(part.len() as u64).to_le_bytes());
                all.extend_from_slice(part);
            }
        }
        assert_eq!(
            folder.digest("model.onnx"),
            Ok(FieldHasher { hash: Sha256::new_with_prefix(all), bytes: 0 }.digest())
        );
    }

    #[test]
    fn other_files_are_hashed_by_name_and_content() {
        let folder = Folder::new("others");
        fs::write(folder.0.join("w.bin"), b"1234").unwrap();
        let digest = |others: &[(&str, &str)]| {
            let others: Vec<_> =
                others.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
            compute(&folder.0.join("model.onnx"), Some(b"{}"), &others).unwrap().digest
        };
        assert_eq!(digest(&[]), folder.digest("model.onnx").unwrap());
        let digests = [digest(&[]), digest(&[("a", "b")]), digest(&[("a", "c")]), digest(&[("a", ""), ("b", "")])];
        assert_eq!(digests.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn an_ort_file_is_hashed_without_being_parsed() {
        let folder = Folder::new("ort");
        fs::write(folder.0.join("model.ORT"), b"ORTM, and no protobuf").unwrap();
        let digest = compute(&folder.0.join("model.ORT"), None, &[]).unwrap();
        assert_eq!((digest.bytes, digest.names), (21, None));
    }

    #[test]
    fn only_the_graph_may_be_a_link_and_device_files_are_rejected() {
        let folder = Folder::new("links");
        let data = folder.0.join("w.bin");
        fs::write(&data, b"1234").unwrap();
        symlink("model.onnx", folder.0.join("link.onnx")).unwrap();
        assert_eq!(folder.digest("link.onnx"), folder.digest("model.onnx"));
        symlink("/dev/zero", folder.0.join("endless.onnx")).unwrap();
        assert!(
            folder
                .digest("endless.onnx")
                .unwrap_err()
                .ends_with("endless.onnx cannot be read: it is not a regular file")
        );
        fs::remove_file(&data).unwrap();
        symlink("/dev/zero", &data).unwrap();
        assert!(folder.digest("model.onnx").unwrap_err().ends_with("w.bin cannot be read: it is a symbolic link"));
        fs::remove_file(&data).unwrap();
        fs::create_dir(&data).unwrap();
        assert!(folder.digest("model.onnx").unwrap_err().ends_with("cannot be read: it is not a regular file"));
    }
}
