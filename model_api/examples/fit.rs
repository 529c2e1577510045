//! `fit FOLDER IMAGE…` writes each image into the folder as the mnist model receives it: 28×28, ink 255 on 0.

use std::path::Path;

use anyhow::Context;
use model_api::preprocessing::{Fit, ImageLimits, ImageSettings, ImageSpec, preprocess};
use open_inference::Datatype;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: fit FOLDER IMAGE…")?;
    let settings = ImageSettings { fit: Fit::Digit, ..ImageSettings::default() };
    let spec = ImageSpec::resolve(&settings, Datatype::Fp32, &[-1, 28, 28, 1]).map_err(anyhow::Error::msg)?;
    for path in arguments {
        let name = Path::new(&path).file_stem().context("an image must be a file")?;
        let bytes = std::fs::read(&path).with_context(|| path.clone())?;
        let fitted = preprocess(&bytes, &spec, &ImageLimits::default()).with_context(|| path.clone())?;
        std::fs::write(Path::new(&folder).join(name).with_extension("png"), fitted.to_png()?)?;
    }
    Ok(())
}
