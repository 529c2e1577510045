//! Cost of computing a cache key: for images from a thumbnail to a megabyte, and for an input tensor of mnist.
//!
//! `cargo bench -p db_api --bench key`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use db_api::cache::{CacheKey, KeyInput};
use open_inference::{Datatype, Tensor};

const DIGEST: &str = "sha256:6c7d0f5f2f8d2a1c9b1f3d6e7a8b9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b";

fn key(input: KeyInput<'_>) -> CacheKey {
    CacheKey::new("ui", "mnist", "1", DIGEST, input)
}

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key");
    for bytes in [300, 35_000, 1 << 20] {
        let image = vec![0x5a; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("image", bytes), &image, |bencher, image| {
            bencher.iter(|| key(KeyInput::Image(black_box(image))));
        });
    }
    let tensors =
        [Tensor::from_f32("pixels", Datatype::Fp32, vec![1, 784], &[0.5; 784]).expect("784 floats are a row")];
    group.throughput(Throughput::Bytes(tensors[0].data.len() as u64));
    group.bench_function("tensor of 784 floats", |bencher| {
        bencher.iter(|| key(KeyInput::Tensors(black_box(&tensors))));
    });
    group.finish();
}

criterion_group!(benches, keys);
criterion_main!(benches);
