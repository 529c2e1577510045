//! Puts together what `/docs` serves: the description of the interface as JSON, and the viewer's files, compressed.
//!
//! The viewer is Swagger UI out of a crate that carries its release, so that neither a build nor a browser fetches
//! anything from elsewhere.

use std::borrow::Cow;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Cursor, Read, copy};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::Value;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

/// Of the release's files, these.
const VIEWER: [&str; 3] = ["dist/swagger-ui-bundle.js", "dist/swagger-ui.css", "LICENSE"];

/// Our own beside them.
const OURS: [&str; 3] = ["docs.css", "docs.html", "docs.js"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=openapi");
    let out = std::env::var("OUT_DIR")?;
    let out = Path::new(&out);

    let description: Value = serde_saphyr::from_str(&fs::read_to_string("openapi/openapi.yaml")?)?;
    fs::write(out.join("openapi.json"), description.to_string())?;

    let mut release = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    let files: Vec<String> = release.file_names().map(|name| name.map(Cow::into_owned)).collect::<Result<_, _>>()?;
    for wanted in VIEWER {
        let in_release = |path: &&String| path.split_once('/').is_some_and(|(_, path)| path == wanted);
        let path = files.iter().find(in_release).ok_or_else(|| format!("the viewer's release has no {wanted}"))?;
        let name = wanted.rsplit('/').next().unwrap_or(wanted);
        compress(release.by_name(path)?, &out.join(format!("{name}.gz")))?;
    }
    for name in OURS {
        compress(File::open(Path::new("openapi").join(name))?, &out.join(format!("{name}.gz")))?;
    }
    Ok(())
}

fn compress(mut from: impl Read, to: &Path) -> Result<(), Box<dyn Error>> {
    // Without a file's name and date: the same files make the same bytes.
    let mut to = GzBuilder::new().write(File::create(to)?, Compression::best());
    copy(&mut from, &mut to)?;
    to.finish()?;
    Ok(())
}
