use service::command_line::{Program, Setting, setting};

/// Commands and settings that `web_api --help` shows.
pub const PROGRAM: Program = Program {
    name: "web_api",
    version: env!("CARGO_PKG_VERSION"),
    about: "the public service of MLServe: page, predictions, jobs, the Open Inference Protocol, and the cache.",
    commands: &[
        ("worker", "works on jobs alone; needs REDIS_URL"),
        ("health", "prints whether the service on this machine is ready; exit code 0 if it is"),
        ("metrics", "prints the metrics of the service on this machine, from METRICS_ADDR"),
    ],
    internal: &["log"],
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    setting("PORT", "5000", "Port to listen on."),
    setting("METRICS_ADDR", "127.0.0.1:9100", "Address of GET /metrics."),
    setting("PUBLISH", "HOST", "Address the port is published on; one that is not loopback: Host is not checked."),
    setting("CORS_ALLOW_ORIGINS", "", "Origins of other web sites whose pages may send requests, with commas."),
    setting("APP_TYPE", "ui", "ui: GET / is the page; cli: JSON everywhere."),
    setting("MODEL_API_URL", "http://127.0.0.1:5050", "Base URL of model_api; several replicas with commas."),
    setting("REQUEST_TIMEOUT_MS", "30000", "Time for one response of model_api."),
    setting("MAX_CONCURRENT_REQUESTS", "512", "Requests in flight to model_api; one more fails with 503."),
    setting("REPOSITORY_API", "on", "off: requests to load and unload models fail with 403."),
    setting("REDIS_URL", "", "Redis for cached results and jobs; unset: this process alone keeps them."),
    setting("REDIS_TIMEOUT_MS", "50", "Time for one command of Redis."),
    setting("CACHE_TTL_S", "604800", "Time for which a result is cached, seconds."),
    setting("NEAR_CACHE_BYTES", "67108864", "Bytes of cached results in this process."),
    setting("JOB_CONCURRENCY", "64", "Inputs of one model that this process works on at the same time; 0: none."),
    setting("JOB_LIST", "on", "off: a request for the list of all jobs fails with 403."),
    setting("MAX_JOB_INPUTS", "10000", "Inputs of one job."),
    setting("MAX_JOB_BYTES", "201326592", "Bytes of the inputs of one job, unpacked."),
    setting("JOB_TTL_S", "86400", "Time for which a job is kept after its end, seconds."),
    setting("JOB_QUEUE_LENGTH", "100000", "Inputs that may wait for one model."),
    setting("JOB_CLAIM_AFTER_MS", "30000", "Silence after which a worker counts as dead."),
    setting("JOB_MAX_DELIVERIES", "3", "Dead workers after which an input has failed."),
    setting("WEBHOOK_ALLOW", "", "Hosts and networks, with ports, that webhooks may call, with commas."),
    setting("WEBHOOK_SECRET", "", "Key that signs webhooks: whsec_ and base64, 24 bytes or more."),
];
