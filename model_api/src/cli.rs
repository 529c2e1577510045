//! Command line: commands, and settings with their defaults.

use service::command_line::{Program, Setting, setting};

/// What `model_api --help` shows.
pub const PROGRAM: Program = Program {
    name: "model_api",
    version: env!("CARGO_PKG_VERSION"),
    about: "the private service of MLServe: runs the ONNX models of a folder.",
    commands: &[
        ("models", "lists the models of MODELS_DIR, and why a file there is none"),
        ("health", "prints whether the service on this machine is ready; exit code 0 if it is"),
        ("metrics", "prints the metrics of the service on this machine, from METRICS_ADDR"),
    ],
    internal: &["session"],
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    setting("PORT", "5050", "Port to listen on."),
    setting("METRICS_ADDR", "127.0.0.1:9150", "Address of GET /metrics."),
    setting("MODEL_NAME", "", "Models to serve: a name, several with commas, or all. Must be set."),
    setting("MODELS_DIR", "./models", "Folder of the models."),
    setting("MODEL_WATCH", "poll", "poll: changes in the folder are served; off: they are not."),
    setting("MODEL_WATCH_INTERVAL_MS", "1000", "Time between two polls of the folder."),
    setting("DEVICE", "auto", "auto, cpu or cuda."),
    setting("ORT_DYLIB_PATH", "", "Path of libonnxruntime.so. Must be set."),
    setting("SESSION_THREADS", "0", "Threads of all sessions of a model; 0: what the cgroup's quota allows."),
    setting("QUEUE_LENGTH", "1024", "Rows that may wait for a model; one more is answered 503."),
    setting("QUEUE_BYTES", "268435456", "Bytes of all inputs that wait or run; one more is answered 503."),
    setting("RUN_TIMEOUT_MS", "30000", "Time for one run; after it the response is 504 and the session is replaced."),
    setting(
        "SESSION_MEMORY_BYTES",
        "0",
        "Memory of one session's process; 0: half of the container's or machine's at most.",
    ),
    setting("START_TIMEOUT_MS", "120000", "Time for a session to load its model and run it once."),
    setting("MAX_IMAGE_BYTES", "33554432", "Bytes of one image file."),
    setting("MAX_IMAGE_SIDE", "16384", "Width and height of one image, pixels."),
    setting("MAX_IMAGE_PIXELS", "67108864", "Pixels of one image."),
    setting("MAX_DECODE_BYTES", "268435456", "Bytes of one image, decoded, and of the tensor of a batch of them."),
    setting("DECODE_THREADS", "0", "Images decoded at the same time; 0: the cgroup's quota, 4 at most."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocessing::ImageLimits;

    #[test]
    fn the_defaults_of_images_are_those_of_the_decoder() {
        let limits = ImageLimits::default();
        for (name, default) in [
            ("MAX_IMAGE_BYTES", limits.bytes.to_string()),
            ("MAX_IMAGE_SIDE", limits.side.to_string()),
            ("MAX_IMAGE_PIXELS", limits.pixels.to_string()),
            ("MAX_DECODE_BYTES", limits.decode_bytes.to_string()),
        ] {
            let setting = SETTINGS.iter().find(|setting| setting.name == name).unwrap();
            assert_eq!(setting.default, default, "{name}");
        }
    }
}
