//! File name rules of model files: ONNX (`.onnx`) and ONNX Runtime's own format (`.ort`), in any case.
//!
//! Files of other libraries are recognised as well, so that the log can give the reason why they are skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Extensions of model files of other libraries, and their formats.
const FOREIGN_FORMATS: [(&[&str], &str); 7] = [
    (&["pt", "pth", "ckpt", "safetensors"], "a file of PyTorch"),
    (&["h5", "keras", "pb", "tflite"], "a file of TensorFlow"),
    (&["pkl", "pickle", "joblib"], "a pickle of Python objects"),
    (&["pdmodel", "mlmodel"], "a file of another library"),
    (&["plan", "engine"], "a file of TensorRT"),
    (&["gguf"], "a file of llama.cpp"),
    (&["onnx.gz", "onnx.zip", "onnx.xz", "onnx.bz2"], "a compressed file, which must be unpacked first"),
];

/// The model files of one folder, and those that look like model files.
#[derive(Debug, Default)]
pub struct GraphFiles {
    /// By name without extension; the file that is served comes first.
    graphs: BTreeMap<String, Vec<PathBuf>>,
    /// Names of folders.
    pub folders: Vec<String>,
    /// Names of files of other libraries.
    pub foreign: Vec<String>,
}

impl GraphFiles {
    /// Lists the folder once. Names that are not UTF-8 or begin with a dot are ignored.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            // The entry may be a dangling link.
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(_) => continue,
            };
            if metadata.is_dir() {
                files.folders.push(name);
            } else if let Some(stem) = graph_stem(&name).filter(|stem| !stem.is_empty()) {
                files.graphs.entry(stem.to_owned()).or_default().push(entry.path());
            } else if foreign_format(&name).is_some() {
                files.foreign.push(name);
            }
        }
        files.graphs.values_mut().for_each(|paths| paths.sort_by_cached_key(|path| (preference(path), path.clone())));
        files.folders.sort();
        files.foreign.sort();
        Ok(files)
    }

    /// The file `stem.onnx`, or else `stem.ort`, and the names of the other files with the same stem, which are skipped.
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

/// The name without `.onnx` or `.ort`, in any case; `None` for other extensions.
pub fn graph_stem(name: &str) -> Option<&str> {
    let (stem, extension) = name.rsplit_once('.')?;
    (extension.eq_ignore_ascii_case("onnx") || extension.eq_ignore_ascii_case("ort")).then_some(stem)
}

/// Whether the file is in ONNX Runtime's own format, which can be run but not analysed.
pub fn is_ort(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ort"))
}

/// The format of a model file of another library.
pub fn foreign_format(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let has = |extension: &&str| name.strip_suffix(*extension).is_some_and(|rest| rest.ends_with('.'));
    FOREIGN_FORMATS.iter().find(|(extensions, _)| extensions.iter().any(has)).map(|(_, what)| *what)
}

/// Sort key: lower-case extensions first, `.onnx` before `.ort`.
fn preference(path: &Path) -> u8 {
    let is_lower_case = path.extension().is_some_and(|extension| extension == "onnx" || extension == "ort");
    u8::from(!is_lower_case) + 2 * u8::from(is_ort(path))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_files_are_recognised_by_extension_in_any_case() {
        let stems = ["m.onnx", "m.ONNX", "v1.5.Onnx", "m.ort", "m.ORT", "m.onnx.data", "onnx", "m.pt"].map(graph_stem);
        let m = Some("m");
        assert_eq!(stems, [m, m, Some("v1.5"), m, m, None, None, None]);
        assert_eq!([is_ort(Path::new("a.ORT")), is_ort(Path::new("a.onnx"))], [true, false]);
        assert_eq!(foreign_format("resnet.PTH"), Some("a file of PyTorch"));
        assert_eq!(foreign_format("m.onnx.gz"), Some("a compressed file, which must be unpacked first"));
        assert_eq!(["m.onnx.data", "README.md", "pt"].map(foreign_format), [None; 3]);
    }
}
