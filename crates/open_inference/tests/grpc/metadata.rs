use open_inference::Datatype;
use open_inference::grpc::proto::inference::model_config::SchedulingChoice;
use open_inference::grpc::proto::inference::model_input::Format;
use open_inference::grpc::proto::inference::{
    DataType, ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest, StatisticDuration,
};
use tonic::Code;

use crate::support::{TestServer, floats, raw};

#[tokio::test]
async fn liveness_and_readiness_are_reported() {
    let server = TestServer::start().await;
    let mut client = server.client();
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    server.fake.unready.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
}

#[tokio::test]
async fn an_unknown_model_is_not_ready() {
    let server = TestServer::start().await;
    let mut client = server.client();
    for (name, version, is_ready) in
        [("FP32", "", true), ("FP32", "1", true), ("FP32", "9", false), ("busy", "", false), ("none", "", false)]
    {
        let request = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
        assert_eq!(client.model_ready(request).await.unwrap().into_inner().ready, is_ready, "{name} {version}");
    }
}

#[tokio::test]
async fn metadata_describes_server_and_models() {
    let server = TestServer::start().await;
    let mut client = server.client();
    let about = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!((about.name.as_str(), about.version.is_empty()), ("mlserve", false));
    assert!(about.extensions.contains(&"statistics".to_owned()));

    let request = ModelMetadataRequest { name: "two".to_owned(), version: String::new() };
    let model = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!((model.name.as_str(), model.platform.as_str()), ("two", "onnxruntime_onnx"));
    assert_eq!(model.versions, ["1", "2"]);
    let signature: Vec<_> =
        model.inputs.iter().map(|input| (input.name.as_str(), input.datatype.as_str(), &input.shape[..])).collect();
    assert_eq!(signature, [("a", "INT32", &[-1][..]), ("b", "FP16", &[-1])]);
    assert_eq!(model.outputs[1].name, "b_out");

    for (name, version) in [("none", ""), ("two", "9"), ("../two", ""), ("", "")] {
        let request = ModelMetadataRequest { name: name.to_owned(), version: version.to_owned() };
        assert_eq!(client.model_metadata(request).await.unwrap_err().code(), Code::NotFound, "{name} {version}");
    }
}

#[tokio::test]
async fn model_configuration_is_in_tritons_format() {
    let server = TestServer::start().await;
    let request = ModelConfigRequest { name: "BYTES".to_owned(), version: String::new() };
    let config = server.client().model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.name.as_str(), config.max_batch_size), ("BYTES", 8));
    assert_eq!((config.platform.as_str(), config.backend.as_str()), ("onnxruntime_onnx", "onnxruntime"));
    assert_eq!(config.input[0].data_type(), DataType::TypeString);
    assert_eq!(config.output[0].name, "x_out");
    assert_eq!(config.output[0].dims, [] as [i64; 0]);
    assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
    assert_eq!((config.input[0].format(), config.response_cache.unwrap().enable), (Format::None, false));
    let request = ModelConfigRequest { name: "photo".to_owned(), version: String::new() };
    let config = server.client().model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.input[0].format(), config.response_cache.unwrap().enable), (Format::Nchw, true));
    for datatype in Datatype::ALL {
        let request = ModelConfigRequest { name: datatype.name().to_owned(), version: String::new() };
        let config = server.client().model_config(request).await.unwrap().into_inner().config.unwrap();
        assert_ne!(config.input[0].data_type(), DataType::TypeInvalid, "{datatype}");
    }
}

#[tokio::test]
async fn statistics_count_every_response() {
    let server = TestServer::start().await;
    let mut client = server.client();
    for _ in 0..2 {
        client.model_infer(raw("FP32", &[floats(&[1.0, 2.0, 3.0])])).await.unwrap();
    }
    let request = ModelStatisticsRequest { name: "FP32".to_owned(), version: "2".to_owned() };
    let statistics = client.model_statistics(request).await.unwrap().into_inner().model_stats;
    let [model] = &statistics[..] else { panic!("expected one version") };
    assert_eq!((model.inference_count, model.execution_count), (6, 2));
    let stages = model.inference_stats.unwrap();
    assert_eq!(stages.success.unwrap(), StatisticDuration { count: 2, ns: 8_000_000 });
    assert_eq!(stages.queue.unwrap(), StatisticDuration { count: 2, ns: 2_000_000 });
    assert_eq!(model.batch_stats[0].batch_size, 3);

    let all = client.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner().model_stats;
    assert!(all.len() > 14);
    for name in ["none", "../FP32", &"n".repeat(10_000)] {
        let request = ModelStatisticsRequest { name: name.to_owned(), version: String::new() };
        let error = client.model_statistics(request).await.unwrap_err();
        assert!(error.code() == Code::NotFound && error.message().len() < 200, "{error}");
    }
}
