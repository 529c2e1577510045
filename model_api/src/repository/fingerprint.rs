//! Fingerprints: detect changes of a model's files from metadata, without reading them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::graph_files::graph_stem;

/// Snapshot of the folder of models.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Identity of the folder: device and inode.
    pub folder: (u64, u64),
    /// For each possible model name, a hash over path, size, times and inode of every file under it.
    pub models: BTreeMap<String, u64>,
}

/// Maximum depth below the folder of models. Data files may be in subfolders.
const MAX_DEPTH: usize = 8;

/// Maximum number of files per model, which bounds the cost of a poll.
const MAX_FILES: usize = 10_000;

impl Snapshot {
    /// Captures the folder as it is now. An unreadable folder is an error, not an empty snapshot: it may be readable again soon.
    pub fn capture(dir: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(dir)?;
        let mut entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        entries.retain(|path| !is_hidden(path));
        entries.sort();
        // External data of a bare file lies beside it. Only the graph names these files, so all of them count.
        let (mut siblings, mut remaining) = (DefaultHasher::new(), MAX_FILES);
        for path in entries.iter().filter(|path| !path.is_dir() && !is_graph(path)) {
            hash_tree(path, MAX_DEPTH, &mut remaining, &mut siblings);
        }
        let siblings = siblings.finish();
        let mut hashers: BTreeMap<String, DefaultHasher> = BTreeMap::new();
        for path in entries.iter().filter(|path| path.is_dir() || is_graph(path)) {
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            let Some(name) = name.and_then(OsStr::to_str) else { continue };
            let hasher = hashers.entry(name.to_owned()).or_default();
            let mut remaining = MAX_FILES;
            hash_tree(path, 0, &mut remaining, hasher);
            if !path.is_dir() {
                siblings.hash(hasher);
            }
        }
        let models = hashers.into_iter().map(|(name, hasher)| (name, hasher.finish())).collect();
        Ok(Self { folder: (metadata.dev(), metadata.ino()), models })
    }
}

/// Hashes a file or folder. An unreadable entry has a constant hash until it is readable.
fn hash_tree(path: &Path, depth: usize, remaining: &mut usize, hasher: &mut impl Hasher) {
    if *remaining == 0 {
        return;
    }
    *remaining -= 1;
    path.hash(hasher);
    let Ok(own) = fs::symlink_metadata(path) else { return };
    hash_identity(&own, hasher);
    let mut metadata = own;
    if metadata.is_symlink() {
        fs::read_link(path).ok().hash(hasher);
        let Ok(target) = fs::metadata(path) else { return };
        hash_identity(&target, hasher);
        metadata = target;
        // A model or a version may be a link. Links to folders further down are not followed.
        if metadata.is_dir() && depth > 1 {
            return;
        }
    }
    if !metadata.is_dir() {
        // The ctime as well as the mtime: tools that preserve the mtime cannot set the ctime back.
        let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
        (metadata.len(), times).hash(hasher);
        return;
    }
    if depth >= MAX_DEPTH {
        return;
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<_> = entries.unwrap_or_else(|_: io::Error| Vec::new());
    entries.retain(|path| !is_hidden(path));
    entries.sort();
    for path in &entries {
        hash_tree(path, depth + 1, remaining, hasher);
    }
}

fn hash_identity(metadata: &Metadata, hasher: &mut impl Hasher) {
    (metadata.dev(), metadata.ino(), metadata.mode()).hash(hasher);
}

fn is_graph(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| graph_stem(name).is_some())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("model_api-fingerprint-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, content: &str) {
            fs::create_dir_all(self.0.join(name).parent().unwrap()).unwrap();
            fs::write(self.0.join(name), content).unwrap();
        }

        /// The names whose fingerprint `change` changes.
        fn changed(&self, change: impl FnOnce(&Path)) -> Vec<String> {
            let before = Snapshot::capture(&self.0).unwrap();
            assert_eq!(before, Snapshot::capture(&self.0).unwrap(), "capturing changes nothing");
            change(&self.0);
            let after = Snapshot::capture(&self.0).unwrap();
            let is_new = |(name, print): &(String, u64)| before.models.get(name) != Some(print);
            after.models.into_iter().filter(is_new).map(|(name, _)| name).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_file_of_a_model_changes_only_its_own_fingerprint() {
        let folder = Folder::new("files");
        for name in [
            "bare.onnx",
            "upper.ONNX",
            "own.ort",
            "plain/model.onnx",
            "plain/data/w.bin",
            "versions/1/model.onnx",
            "w.bin",
        ] {
            folder.write(name, "old");
        }
        for (name, model) in [
            ("bare.onnx", "bare"),
            ("upper.ONNX", "upper"),
            ("own.ort", "own"),
            ("plain/data/w.bin", "plain"),
            ("plain/model-settings.json", "plain"),
            ("versions/2/model.onnx", "versions"),
            ("versions/1/model-settings.json", "versions"),
        ] {
            assert_eq!(folder.changed(|_| folder.write(name, "new")), [model], "{name}");
        }
        assert_eq!(folder.changed(|_| folder.write("w.bin", "new")), ["bare", "own", "upper"], "data of any of them");
    }

    #[test]
    fn a_file_with_the_same_size_and_mtime_has_another_fingerprint() {
        let folder = Folder::new("dates");
        folder.write("m/model.onnx", "old");
        let changed = folder.changed(|path| {
            let file = path.join("m/model.onnx");
            let date = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, "new").unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(date).unwrap();
        });
        assert_eq!(changed, ["m"]);
    }

    #[test]
    fn a_retargeted_link_counts_and_hidden_files_do_not() {
        let folder = Folder::new("links");
        folder.write(".first/model.onnx", "same");
        folder.write(".second/model.onnx", "same");
        symlink(".first", folder.0.join("m")).unwrap();
        assert_eq!(folder.changed(|_| folder.write(".third/model.onnx", "x")), [""; 0]);
        let changed = folder.changed(|path| {
            symlink(".second", path.join(".new")).unwrap();
            fs::rename(path.join(".new"), path.join("m")).unwrap();
        });
        assert_eq!(changed, ["m"]);
        assert_eq!(folder.changed(|_| folder.write(".second/model.onnx", "other")), ["m"]);
    }
}
