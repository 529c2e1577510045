use open_inference::Datatype;
use serde::{Deserialize, Serialize};

/// `inputs[].parameters.image` of `model-settings.json`: how a picture becomes that input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSettings {
    /// Gray or RGB. As the shape's channels say where it is left out.
    #[serde(default)]
    pub color: Option<Color>,
    /// How a picture of another size is brought to the model's.
    #[serde(default)]
    pub fit: Fit,
    /// Each value 0–255 is multiplied by this first. 1/255 where it is left out, and 1 for a model that takes integers.
    #[serde(default)]
    pub scale: Option<f32>,
    /// Then this is subtracted: one number for each channel, or none.
    #[serde(default)]
    pub mean: Vec<f32>,
    /// Then it is divided by this: one number for each channel, or none.
    #[serde(default)]
    pub std: Vec<f32>,
    /// Told from the shape where it is left out.
    #[serde(default)]
    pub layout: Option<Layout>,
    /// What shows through where the image is transparent: `white`, which it is where it is left out, `black`, or `#rrggbb`. The fit
    /// `digit` chooses a ground of its own.
    #[serde(default)]
    pub background: Option<Background>,
    /// The lowest and the highest sample, which become 0 and 255, of images with more than 8 bits a sample: 12 bits in 16 are
    /// `[0, 4095]`. Where it is left out, all values that the samples' type has; for floats see `docs/DECODING.md`.
    #[serde(default)]
    pub range: Option<[f64; 2]>,
}

/// A colour: red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl Background {
    /// What browsers, phones and printers show beneath a transparent image.
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
                None => {
                    Err(format!("image.background: {text:?} is no colour; write \"white\", \"black\" or \"#rrggbb\""))
                }
            },
        }
    }
}

impl From<Background> for String {
    fn from(Background([red, green, blue]): Background) -> Self {
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

/// What a pixel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// One channel, brightness (Rec. 601, as JPEG and Pillow have it).
    Gray,
    /// Three channels.
    Rgb,
}

/// How a picture is brought to the model's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// As the MNIST authors did: the ink alone, 255 on 0, in a box of 20/28 of the side, centred by mass.
    Digit,
    /// All of the picture, its aspect kept, black where it does not reach.
    #[default]
    Contain,
    /// The middle of the picture, its aspect kept, nothing left empty.
    Cover,
    /// All of the picture, its aspect lost.
    Stretch,
}

/// The order of the tensor's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Batch, height, width, channels.
    #[serde(rename = "NHWC", alias = "nhwc")]
    Nhwc,
    /// Batch, channels, height, width.
    #[serde(rename = "NCHW", alias = "nchw")]
    Nchw,
}

/// [`ImageSettings`] held against the tensor's shape: all that reading a picture needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSpec {
    width: u32,
    height: u32,
    color: Color,
    fit: Fit,
    layout: Layout,
    background: Background,
    range: Option<[f64; 2]>,
    /// For each channel the factor and the offset that scale, mean and std come to.
    affines: [(f32, f32); 3],
}

/// No model that fits our memory reads more than this a side.
const MAX_SIDE: i64 = 8192;

impl ImageSpec {
    /// Checks the settings against the input's datatype and shape, batch axis first. The error names the field that is
    /// wrong.
    pub fn resolve(settings: &ImageSettings, datatype: Datatype, shape: &[i64]) -> Result<Self, String> {
        if matches!(datatype, Datatype::Bytes | Datatype::Bool) {
            return Err(format!("datatype: a picture becomes numbers, and the graph has {datatype}"));
        }
        let (layout, [height, width, channels]) = axes(settings.layout, shape)?;
        for (side, what) in [(height, "height"), (width, "width")] {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(format!("shape: a picture needs a fixed {what} of 1 to {MAX_SIDE}, not {side}"));
            }
        }
        let from_shape = match channels {
            1 => Color::Gray,
            3 => Color::Rgb,
            other => return Err(format!("shape: a picture has 1 channel or 3, not {other}")),
        };
        let color = settings.color.unwrap_or(from_shape);
        if color != from_shape {
            return Err(format!("image.color: {} does not fit a shape with {channels} channels", color_name(color)));
        }
        if settings.fit == Fit::Digit && color == Color::Rgb {
            return Err("image.fit: digit needs a shape with 1 channel".into());
        }
        if settings.fit == Fit::Digit && settings.background.is_some() {
            return Err("image.background: digit chooses the ground beneath the ink itself; leave it out".into());
        }
        if settings.range.is_some_and(|[low, high]| !(low < high && low.is_finite() && high.is_finite())) {
            return Err("image.range: must be two finite numbers, the lower one first".into());
        }
        let affines = affines(settings, datatype, channels as usize)?;
        let background = settings.background.unwrap_or(Background::WHITE);
        let (width, height) = (width as u32, height as u32);
        Ok(Self { width, height, color, fit: settings.fit, layout, background, range: settings.range, affines })
    }

    /// What clients are told of it.
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

    /// Pixels from left to right.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels from top to bottom.
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

    /// How other sizes are brought to this one.
    pub fn fit(&self) -> Fit {
        self.fit
    }

    /// The order of the tensor's axes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What shows through where an image is transparent.
    pub fn background(&self) -> Background {
        self.background
    }

    /// The lowest and the highest sample of images with more than 8 bits a sample.
    pub fn range(&self) -> Option<[f64; 2]> {
        self.range
    }

    /// Factor and offset that turn a value 0–255 of this channel into the model's number.
    pub(super) fn affine(&self, channel: usize) -> (f32, f32) {
        self.affines[channel]
    }
}

/// The layout, and height, width and channels in that order.
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
        _ => return Err(format!("shape: a picture needs 3 or 4 axes, batch first, not {}", shape.len())),
    };
    if !matches!(shape[0], -1 | 1) {
        return Err(format!("shape: the batch axis of a picture must be -1 or 1, not {}", shape[0]));
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
        let told = resolve(r#"{"layout": "NCHW"}"#, &[-1, 3, 3, 3]).unwrap();
        assert_eq!(told.layout(), Layout::Nchw);
    }

    #[test]
    fn what_is_left_out_of_the_scale_is_the_datatypes_to_say() {
        let line = |datatype| {
            let spec = ImageSpec::resolve(&ImageSettings::default(), datatype, &[-1, 2, 2, 1]);
            spec.map(|spec| spec.affine(0))
        };
        assert_eq!(line(Datatype::Fp16), Ok((1.0 / 255.0, 0.0)));
        assert_eq!(line(Datatype::Uint8), Ok((1.0, 0.0)));
        assert!(line(Datatype::Bytes).unwrap_err().starts_with("datatype: a picture becomes numbers"));
    }

    #[test]
    fn a_contradiction_names_its_field() {
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
    fn a_background_is_a_name_or_a_number() {
        let read = |text: &str| serde_json::from_str::<Background>(&format!("{text:?}"));
        assert_eq!(["white", "black", "#0aFf10"].map(|text| read(text).unwrap().0), [[255; 3], [0; 3], [10, 255, 16]]);
        assert_eq!(resolve("{}", &[-1, 8, 8, 3]).unwrap().background(), Background::WHITE);
        for text in ["", "blanc", "#fff", "#12345g", "#+12345", "ffffff"] {
            assert!(read(text).unwrap_err().to_string().contains("image.background"), "{text}");
        }
    }
}
