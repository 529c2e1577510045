use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::external_data;

/// What a model's answers depend on, as `sha256:<hex>`: the graph, the tensors that it keeps in other files, and the
/// settings. Every part goes in with its name and both with their lengths, so that no two models can collide by moving
/// bytes from one part to the next.
pub fn of(graph: &Path, settings: Option<&[u8]>) -> Result<String, String> {
    let onnx = fs::read(graph).map_err(|error| format!("the graph cannot be read: {}", error.kind()))?;
    let mut sha256 = Sha256::new();
    update(&mut sha256, "graph", &onnx);
    for location in external_data::locations(&onnx)? {
        let file = graph.with_file_name(&location);
        let data =
            fs::read(file).map_err(|error| format!("a data file of the graph cannot be read: {}", error.kind()))?;
        update(&mut sha256, &location, &data);
    }
    if let Some(settings) = settings {
        update(&mut sha256, "settings", settings);
    }
    let mut digest = "sha256:".to_owned();
    for byte in sha256.finalize() {
        write!(digest, "{byte:02x}").expect("a string takes everything");
    }
    Ok(digest)
}

fn update(sha256: &mut Sha256, name: &str, bytes: &[u8]) {
    sha256.update((name.len() as u64).to_le_bytes());
    sha256.update(name);
    sha256.update((bytes.len() as u64).to_le_bytes());
    sha256.update(bytes);
}
