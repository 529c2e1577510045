use crate::{Datatype, Error, Tensor, TensorMetadata};

/// Writes pictures as PNG, one `BYTES` element for each row of N×H×W, N×H×W×C or N×C×H×W with one, three or four channels;
/// of H×W, H×W×C or C×H×W one.
///
/// Floats are 0 for dark and 1 for bright, and what is beyond is cut off there. `UINT8` is taken as it is, `BOOL` is black
/// and white. Other whole numbers are classes: with labels, the last is white and the others lie evenly below; without,
/// they are taken as they are and cut off at 255.
pub(crate) fn write(tensor: &Tensor, output: &TensorMetadata) -> Result<Tensor, Error> {
    let unfit = |reason: String| Error::unfit(format!("output {:?} {reason}", tensor.name));
    let layout = Layout::of(&tensor.shape, &output.shape)
        .ok_or_else(|| unfit(format!("of the shape {:?} is no picture", tensor.shape)))?;
    let pixels = bytes_of(tensor, output.parameters.labels.len());
    let pictures: Result<Vec<_>, _> = (0..layout.rows).map(|row| layout.encode(&pixels, row)).collect();
    let pictures = pictures.map_err(|error| unfit(format!("is no picture: {error}")))?;
    Ok(Tensor::from_strings(&tensor.name, vec![layout.rows], pictures.iter().map(Vec::as_slice)))
}

/// What the axes are.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    rows: usize,
    height: usize,
    width: usize,
    channels: usize,
    /// C×H×W: the channels one after the other, not pixel by pixel.
    planar: bool,
}

impl Layout {
    /// `declared` is the model's shape: where lengths alone leave a choice, a fixed length is the channels'.
    fn of(shape: &[usize], declared: &[i64]) -> Option<Self> {
        let layout = |rows, height, width, channels, planar| Self { rows, height, width, channels, planar };
        let is_channels = |length: usize| matches!(length, 1 | 3 | 4);
        let declared_open = |axis: usize| declared.get(axis).is_none_or(|&length| length < 0);
        match *shape {
            [height, width] => Some(layout(1, height, width, 1, false)),
            [rows, height, width] if declared_open(0) || !is_channels(rows) && !is_channels(width) => {
                Some(layout(rows, height, width, 1, false))
            }
            [height, width, channels] if is_channels(channels) => Some(layout(1, height, width, channels, false)),
            [channels, height, width] => Some(layout(1, height, width, channels, true)),
            [rows, first, second, last] => {
                let (front, back) = (is_channels(first), is_channels(last));
                let back = back && !(front && declared_open(3) && !declared_open(1));
                match (front, back) {
                    (_, true) => Some(layout(rows, first, second, last, false)),
                    (true, _) => Some(layout(rows, second, last, first, true)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn encode(&self, pixels: &[u8], row: usize) -> Result<Vec<u8>, png::EncodingError> {
        let plane = self.height * self.width;
        let row = &pixels[row * plane * self.channels..(row + 1) * plane * self.channels];
        let interleaved: Vec<u8>;
        let row = if self.planar && self.channels > 1 {
            interleaved = (0..plane).flat_map(|at| (0..self.channels).map(move |c| row[c * plane + at])).collect();
            &interleaved
        } else {
            row
        };
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, side(self.width)?, side(self.height)?);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => png::ColorType::Rgba,
        });
        let mut writer = encoder.write_header()?;
        writer.write_image_data(row)?;
        writer.finish()?;
        Ok(file)
    }
}

fn side(length: usize) -> Result<u32, png::EncodingError> {
    u32::try_from(length).map_err(|_| png::EncodingError::LimitsExceeded)
}

fn bytes_of(tensor: &Tensor, labels: usize) -> Vec<u8> {
    let step = if labels > 1 { 255.0 / (labels - 1) as f32 } else { 1.0 };
    let scale = match tensor.datatype {
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => 255.0,
        Datatype::Uint8 if labels == 0 => return tensor.data.to_vec(),
        _ => step,
    };
    // The cast stops at 0 and 255; NaN is dark.
    tensor.to_f32().into_iter().map(|value| (value * scale).round() as u8).collect()
}
