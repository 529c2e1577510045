//! Names of files that hold a model: ONNX (`.onnx`) and ONNX Runtime's own format (`.ort`), in any case; and of those that
//! come from other libraries, so that they can be named with the reason when they are passed over.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Extensions of model files of other libraries, and what they are.
const FOREIGN: [(&[&str], &str); 7] = [
    (&["pt", "pth", "ckpt", "safetensors"], "a file of PyTorch"),
    (&["h5", "keras", "pb", "tflite"], "a file of TensorFlow"),
    (&["pkl", "pickle", "joblib"], "a pickle of Python objects"),
    (&["pdmodel", "mlmodel"], "a file of another library"),
    (&["plan", "engine"], "a file of TensorRT"),
    (&["gguf"], "a file of llama.cpp"),
    (&["onnx.gz", "onnx.zip", "onnx.xz", "onnx.bz2"], "packed, and would have to be unpacked"),
];

/// The files of one folder that hold a model or look like it.
#[derive(Debug, Default)]
pub struct GraphFiles {
    /// By their name without the extension, the one that is served first.
    graphs: BTreeMap<String, Vec<PathBuf>>,
    /// Names of folders.
    pub folders: Vec<String>,
    /// Names of files of other libraries.
    pub foreign: Vec<String>,
}

impl GraphFiles {
    /// Looks at the folder once. Names that are not UTF-8, or begin with a dot, are left alone.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            // It may be a link that leads nowhere.
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(_) => continue,
            };
            if metadata.is_dir() {
                files.folders.push(name);
            } else if let Some(stem) = stem(&name).filter(|stem| !stem.is_empty()) {
                files.graphs.entry(stem.to_owned()).or_default().push(entry.path());
            } else if foreign(&name).is_some() {
                files.foreign.push(name);
            }
        }
        files.graphs.values_mut().for_each(|paths| paths.sort_by_cached_key(|path| (rank(path), path.clone())));
        files.folders.sort();
        files.foreign.sort();
        Ok(files)
    }

    /// The file `stem.onnx`, or `stem.ort` where there is none, and the names of those of the same stem that are passed over.
    pub fn graph(&self, stem: &str) -> Option<(&Path, Vec<String>)> {
        let (first, others) = self.graphs.get(stem)?.split_first()?;
        Some((first, others.iter().map(|path| file_name(path)).collect()))
    }

    /// Names without extension.
    pub fn stems(&self) -> impl Iterator<Item = &String> {
        self.graphs.keys()
    }

    /// Names of all model files.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.graphs.values().flatten().map(|path| file_name(path))
    }
}

/// The name without `.onnx` or `.ort` in any case; `None` where it has neither.
pub fn stem(name: &str) -> Option<&str> {
    let (stem, extension) = name.rsplit_once('.')?;
    (extension.eq_ignore_ascii_case("onnx") || extension.eq_ignore_ascii_case("ort")).then_some(stem)
}

/// Whether the file is of ONNX Runtime's own format, which can be run, but not analysed here.
pub fn is_ort(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ort"))
}

/// What a model file of another library is.
pub fn foreign(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let has = |extension: &&str| name.strip_suffix(*extension).is_some_and(|rest| rest.ends_with('.'));
    FOREIGN.iter().find(|(extensions, _)| extensions.iter().any(has)).map(|(_, what)| *what)
}

/// `.onnx` as it is usually written first, `.ort` after `.onnx`.
fn rank(path: &Path) -> u8 {
    let is_usual = path.extension().is_some_and(|extension| extension == "onnx" || extension == "ort");
    u8::from(!is_usual) + 2 * u8::from(is_ort(path))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_files_are_known_by_their_extension_in_any_case() {
        let stems = ["m.onnx", "m.ONNX", "v1.5.Onnx", "m.ort", "m.ORT", "m.onnx.data", "onnx", "m.pt"].map(stem);
        let m = Some("m");
        assert_eq!(stems, [m, m, Some("v1.5"), m, m, None, None, None]);
        assert_eq!([is_ort(Path::new("a.ORT")), is_ort(Path::new("a.onnx"))], [true, false]);
        assert_eq!(foreign("resnet.PTH"), Some("a file of PyTorch"));
        assert_eq!(foreign("m.onnx.gz"), Some("packed, and would have to be unpacked"));
        assert_eq!([foreign("m.onnx.data"), foreign("README.md"), foreign("pt")], [None; 3]);
    }
}
