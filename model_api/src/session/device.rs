use std::fs;
use std::path::Path;

use super::{DeviceWish, StartError};

/// A CUDA driver module in this state stays so until it is loaded anew; no process can mend it.
const STUCK_DRIVER: &str = "CUDA failure 999";
const REMEDY: &str = "remedy: sudo rmmod nvidia_uvm; sudo rmmod nvidia; sudo modprobe nvidia; sudo modprobe nvidia_uvm";

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    Cuda,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// What was opened, on what, and why not on CUDA when CUDA was allowed.
#[derive(Debug, PartialEq)]
pub struct Opened<T> {
    pub model: T,
    pub kind: Kind,
    pub fallback_reason: Option<String>,
}

/// Whether the machine has an NVIDIA card, as the driver's files say. In a container `/proc` shows the machine's, also where the
/// container was given no card.
pub fn machine_has_card() -> bool {
    let has_entries = |folder: &str| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    Path::new("/dev/nvidiactl").exists() || has_entries("/proc/driver/nvidia/gpus")
}

/// Opens a model where it is wished for. ONNX Runtime by itself would step down without a word. Where no card is there, `auto`
/// on the processor is no step down.
///
/// `open` opens it and runs it once: CUDA can fail as late as that.
pub fn open<T>(
    wish: DeviceWish,
    has_card: bool,
    library_knows_cuda: bool,
    mut open: impl FnMut(Kind) -> Result<T, String>,
) -> Result<Opened<T>, StartError> {
    let cuda = match wish {
        DeviceWish::Cpu => None,
        _ if library_knows_cuda => Some(open(Kind::Cuda).map_err(|reason| with_remedy(&reason))),
        _ => Some(Err("this ONNX Runtime library has no CUDA provider".to_owned())),
    };
    let fallback_reason = match cuda {
        Some(Ok(model)) => return Ok(Opened { model, kind: Kind::Cuda, fallback_reason: None }),
        Some(Err(reason)) => Some(reason),
        None => None,
    };
    // Also where only CUDA will do: a model that does not open on the CPU either is to blame itself.
    let model = open(Kind::Cpu).map_err(StartError::Model)?;
    match (wish, fallback_reason) {
        (DeviceWish::Cuda, Some(reason)) => Err(StartError::NoDevice(reason)),
        (_, fallback_reason) => {
            Ok(Opened { model, kind: Kind::Cpu, fallback_reason: fallback_reason.filter(|_| has_card) })
        }
    }
}

/// The reason on one line, since people meet it on a page and in a shell, with what helps against it.
fn with_remedy(reason: &str) -> String {
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    if reason.contains(STUCK_DRIVER) { format!("{reason}; {REMEDY}") } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "it stands for one that may fail")]
    fn works(kind: Kind) -> Result<Kind, String> {
        Ok(kind)
    }

    fn only_cpu(kind: Kind) -> Result<Kind, String> {
        if kind == Kind::Cpu { Ok(kind) } else { Err("CUDA failure 999: unknown error".to_owned()) }
    }

    #[test]
    fn auto_takes_cuda_when_it_works() {
        let opened = open(DeviceWish::Auto, true, true, works).unwrap();
        assert_eq!(opened, Opened { model: Kind::Cuda, kind: Kind::Cuda, fallback_reason: None });
    }

    #[test]
    fn auto_steps_down_with_the_reason_and_its_remedy() {
        let opened = open(DeviceWish::Auto, true, true, only_cpu).unwrap();
        assert_eq!(opened.kind, Kind::Cpu);
        let reason = opened.fallback_reason.unwrap();
        assert!(reason.starts_with("CUDA failure 999: unknown error; remedy: sudo rmmod nvidia_uvm"), "{reason}");
        let opened = open(DeviceWish::Auto, true, false, works).unwrap();
        assert_eq!(opened.fallback_reason.unwrap(), "this ONNX Runtime library has no CUDA provider");
    }

    #[test]
    fn auto_is_no_step_down_where_there_is_no_card() {
        for library_knows_cuda in [true, false] {
            let opened = open(DeviceWish::Auto, false, library_knows_cuda, only_cpu).unwrap();
            assert_eq!(opened, Opened { model: Kind::Cpu, kind: Kind::Cpu, fallback_reason: None });
        }
        let refused = open(DeviceWish::Cuda, false, true, only_cpu).unwrap_err();
        assert!(matches!(refused, StartError::NoDevice(_)), "{refused:?}");
    }

    #[test]
    fn cuda_is_refused_rather_than_pretended() {
        let refused = open(DeviceWish::Cuda, true, false, works).unwrap_err();
        assert!(matches!(&refused, StartError::NoDevice(_)), "{refused:?}");
        assert_eq!(refused.to_string(), "DEVICE=cuda, but this ONNX Runtime library has no CUDA provider");
    }

    #[test]
    fn cpu_never_tries_cuda_and_a_broken_model_is_not_blamed_on_the_device() {
        assert_eq!(open(DeviceWish::Cpu, true, true, works).unwrap().fallback_reason, None);
        let broken = open(DeviceWish::Cuda, true, true, |_| Err::<(), _>("no such operator".to_owned()));
        assert_eq!(broken.unwrap_err(), StartError::Model("no such operator".to_owned()));
    }
}
