//! Image settings of a model's input, and their validation against the shape of the tensor.

use open_inference::Datatype;
use serde::{Deserialize, Serialize};

/// `inputs[].parameters.image` of `model-settings.json`: how an image is converted to that input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSettings {
    /// Gray or RGB. Default: the number of channels in the shape decides.
    #[serde(default)]
    pub color: Option<Color>,
    /// How an image of another size is fitted to the model's size.
    #[serde(default)]
    pub fit: Fit,
    /// Factor of each value 0–255, applied first. Default: 1/255, and 1 for integer datatypes.
    #[serde(default)]
    pub scale: Option<f32>,
    /// Subtracted after scaling: one number per channel, or none.
    #[serde(default)]
    pub mean: Vec<f32>,
    /// Divisor after the subtraction: one number per channel, or none.
    #[serde(default)]
    pub std: Vec<f32>,
    /// Order of the axes. Default: derived from the shape.
    #[serde(default)]
    pub layout: Option<Layout>,
    /// Background of transparent images: `white` (default), `black`, or `#rrggbb`. The fit `digit` chooses its own background.
    #[serde(default)]
    pub background: Option<Background>,
    /// The lowest and the highest sample, which become 0 and 255, for images with more than 8 bits per sample: `[0, 4095]` for 12
    /// bits in 16. Default: all values of the samples' type; for floats see `docs/DECODING.md`.
    #[serde(default)]
    pub range: Option<[f64; 2]>,
}

/// A colour: red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl Background {
    /// The background that browsers, phones and printers use for a transparent image.
    pub const WHITE: Self = Self([255; 3]);
    const BLACK: Self = Self([0; 3]);
}

impl TryFrom<String> for Background {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |digits: &str| match digits.len() {
            6 => u32::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit())),
            _ => None,
        };
        match text.as_str() {
            "white" => Ok(Self::WHITE),
            "black" => Ok(Self::BLACK),
            _ => match text.strip_prefix('#').and_then(number) {
                Some(number) => Ok(Self([(number >> 16) as u8, (number >> 8) as u8, number as u8])),
                None => Err(format!(
                    "image.background: {text:?} is not a colour: write \"white\", \"black\" or \"#rrggbb\""
                )),
            },
        }
    }
}

impl From<Background> for String {
    fn from(Background([red, green, blue]): Background) -> Self {
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

/// Channels of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// One channel: luma (Rec. 601, as in JPEG and Pillow).
    Gray,
    /// Three channels.
    Rgb,
}

/// How an image is fitted to the model's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The preprocessing of the MNIST authors: only the foreground, 255 on 0, in a box of 20/28 of the side, centred by mass.
    Digit,
    /// The whole image with its aspect ratio, and black padding.
    #[default]
    Contain,
    /// The centre of the image with its aspect ratio, without padding.
    Cover,
    /// The whole image, without its aspect ratio.
    Stretch,
}

/// Order of the tensor's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Batch, height, width, channels.
    #[serde(rename = "NHWC", alias = "nhwc")]
    Nhwc,
    /// Batch, channels, height, width.
    #[serde(rename = "NCHW", alias = "nchw")]
    Nchw,
}

/// [`ImageSettings`] resolved against the tensor's shape: everything that preprocessing needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSpec {
    width: u32,
    height: u32,
    color: Color,
    fit: Fit,
    layout: Layout,
    background: Background,
    range: Option<[f64; 2]>,
    /// Factor and offset per channel, which combine scale, mean and std.
    affines: [(f32, f32); 3],
}

/// Maximum side of a model's input. No model that fits into memory has a larger one.
const MAX_SIDE: i64 = 8192;

impl ImageSpec {
    /// Validates the settings against the input's datatype and shape, batch axis first. The error names the invalid field.
    pub fn resolve(settings: &ImageSettings, datatype: Datatype, shape: &[i64]) -> Result<Self, String> {
        if matches!(datatype, Datatype::Bytes | Datatype::Bool) {
            return Err(format!("datatype: an image is converted to numbers, and the graph has {datatype}"));
        }
        let (layout, [height, width, channels]) = axes(settings.layout, shape)?;
        for (side, what) in [(height, "height"), (width, "width")] {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(format!("shape: an image needs a fixed {what} of 1 to {MAX_SIDE}, not {side}"));
            }
        }
        let from_shape = match channels {
            1 => Color::Gray,
            3 => Color::Rgb,
            other => return Err(format!("shape: an image has 1 or 3 channels, not {other}")),
        };
        let color = settings.color.unwrap_or(from_shape);
        if color != from_shape {
            return Err(format!("image.color: {} does not fit a shape with {channels} channels", color_name(color)));
        }
        if settings.fit == Fit::Digit && color == Color::Rgb {
            return Err("image.fit: digit needs a shape with 1 channel".into());
        }
        if settings.fit == Fit::Digit && settings.background.is_some() {
            return Err("image.background: the fit digit chooses its own background; remove this setting".into());
        }
        if settings.range.is_some_and(|[low, high]| !(low < high && low.is_finite() && high.is_finite())) {
            return Err("image.range: must be two finite numbers, the lower one first".into());
        }
        let affines = affines(settings, datatype, channels as usize)?;
        let background = settings.background.unwrap_or(Background::WHITE);
        let (width, height) = (width as u32, height as u32);
        Ok(Self { width, height, color, fit: settings.fit, layout, background, range: settings.range, affines })
    }

    /// The description for clients.
    pub fn describe(&self) -> contract::ImageInput {
        contract::ImageInput {
            width: self.width,
            height: self.height,
            color: color_name(self.color).into(),
            fit: match self.fit {
                Fit::Digit => "digit",
                Fit::Contain => "contain",
                Fit::Cover => "cover",
                Fit::Stretch => "stretch",
            }
            .into(),
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// 1 or 3.
    pub fn channels(&self) -> usize {
        match self.color {
            Color::Gray => 1,
            Color::Rgb => 3,
        }
    }

    /// Gray or RGB.
    pub fn color(&self) -> Color {
        self.color
    }

    /// How images of other sizes are fitted.
    pub fn fit(&self) -> Fit {
        self.fit
    }

    /// Order of the tensor's axes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Background of transparent images.
    pub fn background(&self) -> Background {
        self.background
    }

    /// The lowest and the highest sample of images with more than 8 bits per sample.
    pub fn range(&self) -> Option<[f64; 2]> {
        self.range
    }

    /// Factor and offset that convert a value 0–255 of this channel to the model's number.
    pub(super) fn affine(&self, channel: usize) -> (f32, f32) {
        self.affines[channel]
    }
}

/// The layout, then height, width and channels.
fn axes(layout: Option<Layout>, shape: &[i64]) -> Result<(Layout, [i64; 3]), String> {
    let is_channels = |length: i64| length == 1 || length == 3;
    let (layout, axes) = match *shape {
        [_, height, width] => (layout.unwrap_or(Layout::Nhwc), [height, width, 1]),
        [_, a, b, c] => match layout {
            Some(Layout::Nhwc) => (Layout::Nhwc, [a, b, c]),
            Some(Layout::Nchw) => (Layout::Nchw, [b, c, a]),
            None if is_channels(c) => (Layout::Nhwc, [a, b, c]),
            None if is_channels(a) => (Layout::Nchw, [b, c, a]),
            None => return Err("shape: neither the last axis nor axis 1 has 1 or 3 channels".into()),
        },
        _ => return Err(format!("shape: an image needs 3 or 4 axes, batch first, not {}", shape.len())),
    };
    if !matches!(shape[0], -1 | 1) {
        return Err(format!("shape: the batch axis of an image must be -1 or 1, not {}", shape[0]));
    }
    Ok((layout, axes))
}

fn affines(settings: &ImageSettings, datatype: Datatype, channels: usize) -> Result<[(f32, f32); 3], String> {
    for (values, field) in [(&settings.mean, "image.mean"), (&settings.std, "image.std")] {
        if !values.is_empty() && values.len() != channels {
            return Err(format!("{field}: {} numbers for {channels} channels", values.len()));
        }
    }
    let is_float = matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64);
    let scale = settings.scale.unwrap_or(if is_float { 1.0 / 255.0 } else { 1.0 });
    if !scale.is_normal() {
        return Err("image.scale: must be a finite number other than 0".into());
    }
    if !settings.mean.iter().all(|mean| mean.is_finite()) {
        return Err("image.mean: must be finite numbers".into());
    }
    if !settings.std.iter().all(|std| std.is_normal()) {
        return Err("image.std: must be finite numbers other than 0".into());
    }
    Ok(std::array::from_fn(|channel| {
        let mean = settings.mean.get(channel).copied().unwrap_or(0.0);
        let std = settings.std.get(channel).copied().unwrap_or(1.0);
        (scale / std, -mean / std)
    }))
}

fn color_name(color: Color) -> &'static str {
    match color {
        Color::Gray => "gray",
        Color::Rgb => "rgb",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(json: &str, shape: &[i64]) -> Result<ImageSpec, String> {
        ImageSpec::resolve(&serde_json::from_str(json).unwrap(), Datatype::Fp32, shape)
    }

    #[test]
    fn layout_and_color_follow_from_the_shape() {
        let gray = resolve(r#"{"fit": "digit"}"#, &[-1, 28, 30, 1]).unwrap();
        assert_eq!((gray.layout(), gray.color(), gray.height(), gray.width()), (Layout::Nhwc, Color::Gray, 28, 30));
        let rgb = resolve("{}", &[1, 3, 224, 200]).unwrap();
        assert_eq!((rgb.layout(), rgb.color(), rgb.height(), rgb.width()), (Layout::Nchw, Color::Rgb, 224, 200));
        assert_eq!(rgb.describe().fit, "contain");
        let flat = resolve("{}", &[-1, 8, 9]).unwrap();
        assert_eq!((flat.channels(), flat.height(), flat.width()), (1, 8, 9));
        let explicit = resolve(r#"{"layout": "NCHW"}"#, &[-1, 3, 3, 3]).unwrap();
        assert_eq!(explicit.layout(), Layout::Nchw);
    }

    #[test]
    fn the_default_scale_depends_on_the_datatype() {
        let line = |datatype| {
            let spec = ImageSpec::resolve(&ImageSettings::default(), datatype, &[-1, 2, 2, 1]);
            spec.map(|spec| spec.affine(0))
        };
        assert_eq!(line(Datatype::Fp16), Ok((1.0 / 255.0, 0.0)));
        assert_eq!(line(Datatype::Uint8), Ok((1.0, 0.0)));
        assert!(line(Datatype::Bytes).unwrap_err().starts_with("datatype: an image is converted to numbers"));
    }

    #[test]
    fn an_error_names_the_contradicting_field() {
        for (json, shape, field) in [
            ("{}", &[-1, 784][..], "shape"),
            ("{}", &[-1, 5, 28, 28], "shape"),
            ("{}", &[-1, -1, -1, 3], "height"),
            ("{}", &[-1, 28, 0, 3], "width"),
            ("{}", &[8, 28, 28, 3], "batch"),
            (r#"{"color": "rgb"}"#, &[-1, 28, 28, 1], "image.color"),
            (r#"{"fit": "digit"}"#, &[-1, 28, 28, 3], "image.fit"),
            (r#"{"scale": 0}"#, &[-1, 28, 28, 1], "image.scale"),
            (r#"{"mean": [1, 2]}"#, &[-1, 28, 28, 3], "image.mean"),
            (r#"{"std": [1, 0, 1]}"#, &[-1, 28, 28, 3], "image.std"),
            (r#"{"fit": "digit", "background": "white"}"#, &[-1, 28, 28, 1], "image.background"),
            (r#"{"range": [4095, 0]}"#, &[-1, 28, 28, 1], "image.range"),
            (r#"{"range": [7, 7]}"#, &[-1, 28, 28, 1], "image.range"),
        ] {
            let error = resolve(json, shape).unwrap_err();
            assert!(error.contains(field), "{json} {shape:?}: {error}");
        }
        assert!(serde_json::from_str::<ImageSettings>(r#"{"colour": "gray"}"#).is_err());
    }

    #[test]
    fn a_background_is_a_name_or_a_hexadecimal_colour() {
        let read = |text: &str| serde_json::from_str::<Background>(&format!("{text:?}"));
        assert_eq!(["white", "black", "#0aFf10"].map(|text| read(text).unwrap().0), [[255; 3], [0; 3], [10, 255, 16]]);
        assert_eq!(resolve("{}", &[-1, 8, 8, 3]).unwrap().background(), Background::WHITE);
        for text in ["", "blanc", "#fff", "#12345g", "#+12345", "ffffff"] {
            assert!(read(text).unwrap_err().to_string().contains("image.background"), "{text}");
        }
    }
}
