//! `fit FOLDER PICTURE…` writes each picture into the folder as the mnist model sees it: 28×28, ink 255 on 0.

use std::path::Path;

use anyhow::Context;
use model_api::preprocessing::{Fit, ImageLimits, ImageSettings, ImageSpec, preprocess};
use open_inference::Datatype;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: fit FOLDER PICTURE…")?;
    let settings = ImageSettings { fit: Fit::Digit, ..ImageSettings::default() };
    let spec = ImageSpec::resolve(&settings, Datatype::Fp32, &[-1, 28, 28, 1]).map_err(anyhow::Error::msg)?;
    for picture in arguments {
        let name = Path::new(&picture).file_stem().context("a picture is a file")?;
        let bytes = std::fs::read(&picture).with_context(|| picture.clone())?;
        let fitted = preprocess(&bytes, &spec, &ImageLimits::default()).with_context(|| picture.clone())?;
        std::fs::write(Path::new(&folder).join(name).with_extension("png"), fitted.to_png()?)?;
    }
    Ok(())
}
