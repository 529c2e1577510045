//! Device selection: opens a model on CUDA or on the CPU, with a reported fallback.

use std::fs;
use std::path::Path;

use crate::session::error::StartError;
use crate::session::info::{DeviceKind, DevicePreference};

/// A CUDA driver module in this state needs a reload. No process can recover from it.
const STUCK_DRIVER: &str = "CUDA failure 999";
const REMEDY: &str = "remedy: sudo rmmod nvidia_uvm; sudo rmmod nvidia; sudo modprobe nvidia; sudo modprobe nvidia_uvm";

/// An opened model, its device, and the reason for a fallback to the CPU.
#[derive(Debug, PartialEq)]
pub struct Opened<T> {
    pub model: T,
    pub kind: DeviceKind,
    pub fallback_reason: Option<String>,
}

/// Whether the machine has an NVIDIA GPU, according to the files of the driver. In a container, `/proc` shows the GPUs of the
/// machine even if the container has none.
pub fn machine_has_gpu() -> bool {
    let has_entries = |folder: &str| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    Path::new("/dev/nvidiactl").exists() || has_entries("/proc/driver/nvidia/gpus")
}

/// Opens a model on the preferred device. ONNX Runtime itself would fall back silently. Without a GPU, `auto` on the CPU is not
/// a fallback.
///
/// `open` opens the model and runs it once, because CUDA can fail as late as the first run.
pub fn open<T>(
    preference: DevicePreference,
    has_gpu: bool,
    library_has_cuda: bool,
    mut open: impl FnMut(DeviceKind) -> Result<T, String>,
) -> Result<Opened<T>, StartError> {
    let cuda = match preference {
        DevicePreference::Cpu => None,
        _ if library_has_cuda => Some(open(DeviceKind::Cuda).map_err(|reason| with_remedy(&reason))),
        _ => Some(Err("this ONNX Runtime library has no CUDA provider".to_owned())),
    };
    let fallback_reason = match cuda {
        Some(Ok(model)) => return Ok(Opened { model, kind: DeviceKind::Cuda, fallback_reason: None }),
        Some(Err(reason)) => Some(reason),
        None => None,
    };
    // Tried even if only CUDA is acceptable: a model that does not open on the CPU either is itself the cause.
    let model = open(DeviceKind::Cpu).map_err(StartError::Model)?;
    match (preference, fallback_reason) {
        (DevicePreference::Cuda, Some(reason)) => Err(StartError::DeviceUnavailable(reason)),
        (_, reason) => Ok(Opened { model, kind: DeviceKind::Cpu, fallback_reason: reason.filter(|_| has_gpu) }),
    }
}

/// The reason on one line, for web pages and shells, with a known remedy.
fn with_remedy(reason: &str) -> String {
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    if reason.contains(STUCK_DRIVER) { format!("{reason}; {REMEDY}") } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "it replaces a function that may fail")]
    fn works(kind: DeviceKind) -> Result<DeviceKind, String> {
        Ok(kind)
    }

    fn only_cpu(kind: DeviceKind) -> Result<DeviceKind, String> {
        if kind == DeviceKind::Cpu { Ok(kind) } else { Err("CUDA failure 999: unknown error".to_owned()) }
    }

    #[test]
    fn auto_uses_cuda_if_it_works() {
        let opened = open(DevicePreference::Auto, true, true, works).unwrap();
        assert_eq!(opened, Opened { model: DeviceKind::Cuda, kind: DeviceKind::Cuda, fallback_reason: None });
    }

    #[test]
    fn auto_falls_back_with_the_reason_and_its_remedy() {
        let opened = open(DevicePreference::Auto, true, true, only_cpu).unwrap();
        assert_eq!(opened.kind, DeviceKind::Cpu);
        let reason = opened.fallback_reason.unwrap();
        assert!(reason.starts_with("CUDA failure 999: unknown error; remedy: sudo rmmod nvidia_uvm"), "{reason}");
        let opened = open(DevicePreference::Auto, true, false, works).unwrap();
        assert_eq!(opened.fallback_reason.unwrap(), "this ONNX Runtime library has no CUDA provider");
    }

    #[test]
    fn auto_without_a_gpu_is_not_a_fallback() {
        for library_has_cuda in [true, false] {
            let opened = open(DevicePreference::Auto, false, library_has_cuda, only_cpu).unwrap();
            assert_eq!(opened, Opened { model: DeviceKind::Cpu, kind: DeviceKind::Cpu, fallback_reason: None });
        }
        let error = open(DevicePreference::Cuda, false, true, only_cpu).unwrap_err();
        assert!(matches!(error, StartError::DeviceUnavailable(_)), "{error:?}");
    }

    #[test]
    fn cuda_never_falls_back() {
        let error = open(DevicePreference::Cuda, true, false, works).unwrap_err();
        assert!(matches!(&error, StartError::DeviceUnavailable(_)), "{error:?}");
        assert_eq!(error.to_string(), "DEVICE=cuda, but this ONNX Runtime library has no CUDA provider");
    }

    #[test]
    fn cpu_never_tries_cuda_and_a_broken_model_is_not_a_device_error() {
        assert_eq!(open(DevicePreference::Cpu, true, true, works).unwrap().fallback_reason, None);
        let broken = open(DevicePreference::Cuda, true, true, |_| Err::<(), _>("no such operator".to_owned()));
        assert_eq!(broken.unwrap_err(), StartError::Model("no such operator".to_owned()));
    }
}
