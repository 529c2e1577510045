//! The fake model `squares`, which accepts images of 2×2 pixels.

use model_api::repository::RepositoryAccess;
use model_api::repository::Selection;

use super::fake::Fake;
use super::folder::Folder;
use super::router::Service;

/// Declares the input of the fake graph as an image of 2×2 pixels.
const SETTINGS: &str = r#"{
    "name": "squares",
    "max_batch_size": 16,
    "inputs": [{"name": "x", "parameters": {"image": {"color": "gray", "fit": "stretch", "scale": 1}}}],
    "outputs": [{"name": "y", "parameters": {"labels": ["a", "b", "c", "d"]}}],
    "parameters": {
        "independent_rows": true,
        "extra": {"title": "Squares", "description": "Finds the brightest.", "notice": "A toy."}
    }
}"#;

/// The warm fake model, which accepts images.
pub async fn squares() -> Service {
    squares_for(RepositoryAccess::Loopback).await
}

/// The same with this policy for loads and unloads.
pub async fn squares_for(access: RepositoryAccess) -> Service {
    let folder = Folder::new().with("squares/1/model.onnx", "").with("squares/model-settings.json", SETTINGS);
    Service::with_access(folder, &Fake::default(), &Selection::All, access).warm().await
}

/// An image of its size.
pub fn png() -> Vec<u8> {
    let mut png = Vec::new();
    let image = image::GrayImage::from_raw(2, 2, vec![0, 51, 255, 102]).unwrap();
    image.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}
