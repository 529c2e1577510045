//! Build script for `/docs`: converts the `OpenAPI` document to JSON, and compresses the files of Swagger UI.
//!
//! Swagger UI comes from a crate that contains its release, so that neither a build nor a browser downloads it.

use std::borrow::Cow;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Cursor, Read, copy};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::Value;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

/// Files of the Swagger UI release that are served.
const SWAGGER_UI_FILES: [&str; 3] = ["dist/swagger-ui-bundle.js", "dist/swagger-ui.css", "LICENSE"];

/// Files of `openapi/` that are served.
const OWN_FILES: [&str; 3] = ["docs.css", "docs.html", "docs.js"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=openapi");
    let out = std::env::var("OUT_DIR")?;
    let out = Path::new(&out);

    let description: Value = serde_saphyr::from_str(&fs::read_to_string("openapi/openapi.yaml")?)?;
    fs::write(out.join("openapi.json"), description.to_string())?;

    let mut release = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    let files: Vec<String> = release.file_names().map(|name| name.map(Cow::into_owned)).collect::<Result<_, _>>()?;
    for file in SWAGGER_UI_FILES {
        let in_release = |path: &&String| path.split_once('/').is_some_and(|(_, path)| path == file);
        let path = files.iter().find(in_release).ok_or_else(|| format!("the release of Swagger UI has no {file}"))?;
        let name = file.rsplit('/').next().unwrap_or(file);
        compress(release.by_name(path)?, &out.join(format!("{name}.gz")))?;
    }
    for name in OWN_FILES {
        compress(File::open(Path::new("openapi").join(name))?, &out.join(format!("{name}.gz")))?;
    }
    Ok(())
}

fn compress(mut from: impl Read, to: &Path) -> Result<(), Box<dyn Error>> {
    // The header contains no file name and no time, so that builds are reproducible.
    let mut to = GzBuilder::new().write(File::create(to)?, Compression::best());
    copy(&mut from, &mut to)?;
    to.finish()?;
    Ok(())
}
