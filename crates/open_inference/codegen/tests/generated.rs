//! The Rust code and the descriptors in `../src/grpc/generated` are committed, so that a build needs neither `protoc`
//! nor a build script. This test compares them with the output for `proto/`.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use protox::Compiler;

const RENEW: &str = "UPDATE_GENERATED=1 cargo test -p open_inference_codegen";
const GENERATED: [&str; 3] = ["inference.rs", "inference.model_repository.rs", "inference.bin"];

#[test]
fn committed_code_matches_the_proto_files() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let made = tempfile::tempdir().unwrap();
    generate(&crate_folder.join("proto"), made.path()).unwrap();
    for file in GENERATED {
        let committed = crate_folder.join("src/grpc/generated").join(file);
        let new = fs::read(made.path().join(file)).unwrap();
        if env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&committed, new).unwrap();
        } else {
            let same = fs::read(&committed).is_ok_and(|old| old == new);
            assert!(same, "{} is not what proto/ gives. To renew it: {RENEW}", committed.display());
        }
    }
}

fn generate(proto: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let mut compiler = Compiler::new([proto])?;
    compiler.include_imports(true).include_source_info(true).open_file("open_inference.proto")?;
    compiler.open_file("model_repository.proto")?;
    tonic_prost_build::configure()
        .out_dir(to)
        .btree_map(".")
        // Tensors refer to the received message instead of a copy.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        // Written by hand, with the strings in one buffer.
        .extern_path(".inference.InferTensorContents", "crate::grpc::typed::InferTensorContents")
        // The connecting constructor would need a transport. A client can be built from a channel instead.
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    // Reflection does not need comments.
    fs::write(to.join("inference.bin"), compiler.include_source_info(false).encode_file_descriptor_set())?;
    Ok(())
}
