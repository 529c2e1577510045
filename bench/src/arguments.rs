use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

/// How the load generator is called.
pub const USAGE: &str = "usage: load HOST:PORT [--option value]…
  --format png|json|binary|grpc|array   (png) the request: the file as the body, an Open Inference request in JSON, with
                                     binary tensors or over gRPC, or the first MLServe's {\"image_arr\": …}
  --cache hit|miss|no-store          (hit) the same request again; a new one each time; a new one each time with no-store
  --connections N                    (64) each with one request at a time
  --seconds S --warm-up S            (5, 1) time that is measured, and before that not
  --requests N                       end after N requests instead
  --rate R                           open loop: R requests per second, however long the responses take
  --image FILE --class N             (digit-7.png, 7) the image and its right class; no class: not verified
  --model NAME --path PATH           (mnist) the model; the path follows from it
  --rows N                           (1) images in one request of tensors
  --input NAME --shape 3x450x450     in place of the image, zeros of this shape for each row
  --seed N --first N --distinct N    a request is a seed and a number. Misses count up from `first` (0); hits are one
                                     request, or any of the first `distinct`
  --series true                      adds the figures of each second";

/// Everything the command line decides.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub(crate) address: String,
    pub(crate) format: RequestFormat,
    pub(crate) cache: CacheMode,
    pub(crate) connections: usize,
    pub(crate) seconds: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) requests: Option<u64>,
    pub(crate) rate: Option<f64>,
    pub(crate) image: PathBuf,
    pub(crate) class: Option<usize>,
    pub(crate) model: String,
    pub(crate) path: Option<String>,
    pub(crate) rows: usize,
    pub(crate) input: String,
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) seed: u64,
    pub(crate) first: u64,
    pub(crate) distinct: u64,
    pub(crate) series: bool,
}

/// Format of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFormat {
    /// An encoded image as the body.
    Png,
    /// Open Inference, JSON.
    Json,
    /// Open Inference, binary tensors.
    Binary,
    /// Open Inference, gRPC with raw contents.
    Grpc,
    /// The first `MLServe`'s body.
    Array,
}

/// How the requests relate to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// They have been sent before.
    Hit,
    /// Each is new.
    Miss,
    /// Each is new, with `no-store`.
    NoStore,
}

impl Arguments {
    /// Reads the words after the program's name.
    pub fn parse(words: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut words = words.into_iter();
        let mut arguments = Self::new(words.next().context("an address is needed")?);
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value"))?;
            arguments.set(&name, &value).with_context(|| format!("{name} {value}"))?;
        }
        Ok(arguments)
    }

    fn new(address: String) -> Self {
        // Differs in every run, so that no run finds its inputs in the cache.
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        Self {
            address,
            format: RequestFormat::Png,
            cache: CacheMode::Hit,
            connections: 64,
            seconds: Duration::from_secs(5),
            warm_up: Duration::from_secs(1),
            requests: None,
            rate: None,
            image: PathBuf::from("model_api/models/mnist/samples/digit-7.png"),
            class: Some(7),
            model: "mnist".to_owned(),
            path: None,
            rows: 1,
            input: "image".to_owned(),
            shape: None,
            seed,
            first: 0,
            distinct: 1,
            series: false,
        }
    }

    fn set(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        match name {
            "--format" => self.format = value.parse()?,
            "--cache" => self.cache = value.parse()?,
            "--connections" => self.connections = value.parse()?,
            "--seconds" => self.seconds = Duration::try_from_secs_f64(value.parse()?)?,
            "--warm-up" => self.warm_up = Duration::try_from_secs_f64(value.parse()?)?,
            "--requests" => self.requests = Some(value.parse()?),
            "--rate" => self.rate = Some(value.parse()?),
            "--image" => (self.image, self.class) = (value.into(), None),
            "--class" => self.class = Some(value.parse()?),
            "--model" => value.clone_into(&mut self.model),
            "--path" => self.path = Some(value.to_owned()),
            "--rows" => self.rows = value.parse()?,
            "--input" => value.clone_into(&mut self.input),
            "--shape" => {
                let lengths = value.split('x').map(str::parse).collect::<Result<_, _>>()?;
                (self.shape, self.class) = (Some(lengths), None);
            }
            "--seed" => self.seed = value.parse()?,
            "--first" => self.first = value.parse()?,
            "--distinct" => self.distinct = value.parse::<u64>()?.max(1),
            "--series" => self.series = value.parse()?,
            _ => bail!("there is no such option"),
        }
        Ok(())
    }
}

impl FromStr for RequestFormat {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "png" => Self::Png,
            "json" => Self::Json,
            "binary" => Self::Binary,
            "grpc" => Self::Grpc,
            "array" => Self::Array,
            _ => bail!("none of png, json, binary, grpc and array"),
        })
    }
}

impl FromStr for CacheMode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "hit" => Self::Hit,
            "miss" => Self::Miss,
            "no-store" => Self::NoStore,
            _ => bail!("none of hit, miss and no-store"),
        })
    }
}
