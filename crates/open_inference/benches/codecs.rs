#![allow(clippy::unwrap_used, reason = "benchmarks fail by panicking")]
//! Benchmark of decoding a request and encoding its response, in JSON and with binary data.
//!
//! `cargo bench -p open_inference --bench codecs`. The model has the signature of mnist: 784 floats in, ten out.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::HeaderMap;
use open_inference::{
    Datatype, Inference, ModelMetadata, Provenance, Tensor, TensorMetadata, Timing, client, decode_request,
    encode_response, parse_request, response_to_json,
};
use serde_json::json;
use service::memory_budget::{MemoryBudget, Reservation};

const MAX_BODY_BYTES: usize = 64 << 20;

/// An empty reservation in an unlimited budget.
fn memory() -> Reservation {
    MemoryBudget::new(usize::MAX).reservation(None)
}

fn model() -> ModelMetadata {
    ModelMetadata {
        name: "m".to_owned(),
        version: "1".to_owned(),
        inputs: vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 784])],
        outputs: vec![TensorMetadata::new("y", Datatype::Fp32, &[-1, 10])],
        max_batch_size: 0,
        platform: open_inference::Platform::default(),
        batching: None,
        not_cached: None,
    }
}

/// Multiples of 1/255, as in an image.
fn pixels(rows: usize) -> Vec<f32> {
    (0..rows * 784).map(|index| (index * 7919 % 256) as f32 / 255.0).collect()
}

fn inference(rows: usize) -> Inference {
    let scores: Vec<f32> = (0..rows * 10).map(|index| 1.0 / (index as f32 + 1.5)).collect();
    let timing_ms = Timing { decode: 0.0, queue: 0.012, infer: 0.25 };
    Inference {
        model: "m".to_owned(),
        version: "1".to_owned(),
        outputs: vec![Tensor::from_f32("y", Datatype::Fp32, vec![rows, 10], &scores).unwrap()],
        provenance: Provenance { model_digest: "sha256:d".to_owned(), device: "cpu".to_owned(), timing_ms },
        headers: HeaderMap::new(),
    }
}

/// A request in JSON, and one with binary data and the length of its JSON.
fn requests(rows: usize) -> [(&'static str, Bytes, Option<usize>); 2] {
    let tensor = Tensor::from_f32("x", Datatype::Fp32, vec![rows, 784], &pixels(rows)).unwrap();
    let (headers, binary) = client::encode_request(&[tensor]);
    let length = headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let json = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 784], "data": pixels(rows)}]});
    [("JSON", Bytes::from(json.to_string()), None), ("binary", binary, Some(length))]
}

fn codecs(criterion: &mut Criterion) {
    let model = model();
    let mut group = criterion.benchmark_group("codecs");
    for rows in [1, 32] {
        group.throughput(Throughput::Elements(rows as u64));
        let inference = inference(rows);
        for (kind, body, length) in requests(rows) {
            let decode = || {
                decode_request(parse_request(&body, length).unwrap(), &model, MAX_BODY_BYTES, &mut memory()).unwrap()
            };
            group.bench_function(BenchmarkId::new(format!("decode a request, {kind}"), rows), |bencher| {
                bencher.iter(|| black_box(decode()));
            });
            let (_, options) = decode();
            group.bench_function(BenchmarkId::new(format!("encode a response, {kind}"), rows), |bencher| {
                bencher.iter(|| {
                    response_to_json(&encode_response(black_box(&inference), &options, &model).unwrap()).unwrap()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, codecs);
criterion_main!(benches);
