use super::*;

const X: &str = "x:n,4";

#[test]
fn statistics_over_the_batch_couple_rows() {
    for (nodes, constants, reason) in [
        ("ReduceMax x -> peak; Div x peak -> y", "", "ReduceMax \"peak\" reduces over the batch axis"),
        ("ReduceMean x -> m axes=[0]; Sub x m -> y", "", "ReduceMean \"m\" reduces over the batch axis"),
        ("ReduceSum x axes -> s; Sub x s -> y", "axes=[-2]", "ReduceSum \"s\" reduces over the batch axis"),
        (
            "ArgMax x -> i axis=0; Cast i -> f to=1; Add x f -> y",
            "",
            "ArgMax \"i\" takes an extreme along the batch axis",
        ),
        ("CumSum x axis -> y", "axis=0", "CumSum \"y\" sums along the batch axis"),
        ("Softmax x -> y axis=-2", "", "Softmax \"y\" normalises along the batch axis"),
        ("LpNormalization x -> y axis=0", "", "LpNormalization \"y\" normalises along the batch axis"),
        ("LayerNormalization x s -> y axis=0", "s:1", "LayerNormalization \"y\" normalises over the batch axis"),
        ("Transpose x -> t; Softmax t -> s; Transpose s -> y", "", "Softmax \"s\" normalises along the batch axis"),
        (
            "Reshape x flat -> f; ReduceMin f -> m axes=[0]; Sub x m -> y",
            "flat=[-1]",
            "ReduceMin \"m\" reduces over the batch axis",
        ),
        (
            "DynamicQuantizeLinear x -> q s z; DequantizeLinear q s z -> y",
            "",
            "DynamicQuantizeLinear \"q\" takes its scale from the range of the whole batch",
        ),
        (
            "com.microsoft::DynamicQuantizeMatMul x w s -> y",
            "w:4,4 s",
            "DynamicQuantizeMatMul \"y\" takes its scale from the range of the whole batch",
        ),
    ] {
        assert_dependent(X, nodes, constants, reason);
    }
}

#[test]
fn permuted_rows_and_products_of_rows_couple_rows() {
    for (nodes, constants, reason) in [
        (
            "Slice x zero one zero -> f; Sub x f -> y",
            "zero=[0] one=[1]",
            "Slice \"f\" selects a part of the batch axis",
        ),
        ("Gather x last -> l; Sub x l -> y", "last=[-1]", "Gather \"l\" selects rows by index"),
        ("TopK x k -> y i axis=0", "k=[1]", "TopK \"y\" sorts along the batch axis"),
        (
            "Transpose x -> t; MatMul x t -> g; MatMul g x -> y",
            "",
            "MatMul \"g\" multiplies each row with every other one",
        ),
        ("Transpose x -> t; MatMul t x -> c; MatMul x c -> y", "", "MatMul \"c\" sums over the batch axis"),
        ("Gemm x x -> c transA=1; MatMul x c -> y", "", "Gemm \"c\" sums over the batch axis"),
        ("Einsum x x -> q equation=ij,ij->j; Div x q -> y", "", "Einsum \"q\" sums over the batch axis"),
        ("Einsum x x -> y equation=ij,kj->ik", "", "Einsum \"y\" multiplies each row with every other one"),
        (
            "ReduceSum x one -> t; Transpose t -> u; Sub t u -> y",
            "one=[1]",
            "Sub \"y\" combines the batch axis of one input with another axis of the other",
        ),
        ("NonZero x -> y", "", "NonZero \"y\" returns a number of elements that depends on the whole batch"),
    ] {
        assert_dependent(X, nodes, constants, reason);
    }
}

#[test]
fn the_batch_as_an_image_or_sequence_axis_couples_rows() {
    let to_sequence = "Transpose x -> t perm=[1,2,0]";
    for (nodes, constants, reason) in [
        ("Conv t k -> c pads=[1,1]; Transpose c -> y perm=[2,0,1]", "k:4,4,3", "Conv \"c\" slides over the batch axis"),
        (
            "GlobalAveragePool t -> c; Transpose c -> y perm=[2,0,1]",
            "",
            "GlobalAveragePool \"c\" pools over the batch axis",
        ),
        (
            "InstanceNormalization t s b -> i; Transpose i -> y perm=[2,0,1]",
            "s:4 b:4",
            "InstanceNormalization \"i\" normalises over the batch axis",
        ),
    ] {
        assert_dependent("x:n,4,4", &format!("{to_sequence}; {nodes}"), constants, reason);
    }
    let lstm = "LSTM x w r -> h hidden_size=4; Squeeze h one -> y";
    assert_dependent("x:n,1,4", lstm, "w:1,16,4 r:1,16,4 one=[1]", "LSTM \"h\" scans over the batch axis");
    let training = "BatchNormalization x s b m v -> y rm rv training_mode=1";
    let reason = "BatchNormalization \"y\" normalises by the mean and variance of the batch, as in training";
    assert_dependent("x:n,4,4,4", training, "s:4 b:4 m:4 v:4", reason);
    let reason = "MeanVarianceNormalization \"y\" normalises over the batch axis";
    assert_dependent("x:n,4,4,4", "MeanVarianceNormalization x -> y", "", reason);
}

#[test]
fn the_batch_size_couples_rows_if_it_reaches_values() {
    let n = "Shape x -> s; Gather s zero -> n";
    for (nodes, reason) in [
        ("Cast n -> f to=1; Div x f -> y", "Gather \"n\" returns the number of rows"),
        (
            "Squeeze n -> k; Range start k step -> r; Unsqueeze r one -> u; Add x u -> y",
            "Range \"r\" numbers the rows of the batch",
        ),
        ("Greater n one -> many; Mul x x -> q; Where many q x -> y", "Gather \"n\" returns the number of rows"),
    ] {
        assert_dependent(X, &format!("{n}; {nodes}"), "zero=[0] one=[1] start=0 step=1", reason);
    }
    for nodes in [
        "Concat n four -> t axis=0; Reshape x t -> y",
        "Concat n rest -> t axis=0; Reshape x t -> y",
        "Concat n four -> t axis=0; ConstantOfShape t -> z; Add x z -> y",
        "Concat n four -> t axis=0; Expand one t -> z; Mul x z -> y",
        "Slice x zero n zero -> y",
    ] {
        assert_independent(X, &format!("{n}; {nodes}"), "zero=[0] one=[1] four=[4] rest=[-1]");
    }
}

#[test]
fn lengths_that_depend_on_the_whole_batch_couple_rows() {
    let inputs = "x:n,s length:n";
    let longest = "ReduceMax length -> m axes=[0]; Slice x zero m one -> y";
    assert_dependent(inputs, longest, "zero=[0] one=[1]", "ReduceMax \"m\" reduces over the batch axis");
    let trimmed =
        "ReduceMax length -> m axes=[0]; Slice x zero m one -> t; Shape t -> l; Cast l -> f to=1; Mul f f -> y";
    assert_dependent(inputs, trimmed, "zero=[0] one=[1]", "ReduceMax \"m\" reduces over the batch axis");
    let parts = "ReduceMax x -> m axes=[0]; Split x m -> a b axis=1; Shape a -> l; Cast l -> f to=1; Mul x f -> y";
    assert_dependent("x:n,2", parts, "", "ReduceMax \"m\" reduces over the batch axis");
    // The shape of coupled elements is coupled only if it depends on their values.
    let shape_only = "ReduceMax x -> m axes=[0]; Sub x m -> c; Shape c -> l; Reshape x l -> y";
    assert_independent("x:n,s", shape_only, "");
}

#[test]
fn operators_on_other_axes_keep_rows_independent() {
    for (nodes, constants) in [
        ("MatMul x w -> h; Relu h -> r; Gemm r w b -> y transB=1", "w:4,4 b:4"),
        ("ReduceMax x -> m axes=[1]; Sub x m -> e; Softmax e -> y axis=1", ""),
        ("CumSum x axis -> y", "axis=1"),
        ("TopK x k -> v i; Cast i -> f to=1; Mul v f -> y", "k=[2]"),
        ("QuantizeLinear x s z -> q; DequantizeLinear q s z -> y", "s z"),
        ("Unsqueeze x one -> u; Tile u many -> t; ReduceSum t one -> y keepdims=0", "one=[1] many=[1,3,1]"),
        ("Split x -> a b axis=1; Concat b a -> y axis=-1", ""),
        ("Pad x pads -> p; Slice p one big one -> y", "pads=[0,1,0,1] one=[1] big=[9223372036854775807]"),
        ("Einsum x w x -> y equation=bi,ij,bj->b", "w:4,4"),
        ("ai.onnx.ml::Scaler x -> s; ai.onnx.ml::TreeEnsembleRegressor s -> y n_targets=2", ""),
        ("com.microsoft::SkipLayerNormalization x x g -> n _ _ s; Add n s -> y", "g:4"),
        ("Dropout x -> d; Identity d -> y", ""),
        ("OneHot x depth v -> h; ReduceSum h one -> y keepdims=0", "depth=4 v:2 one=[1]"),
        ("Gather table x -> e axis=0; ReduceMean e -> y axes=[1]", "table:9,3"),
        ("GatherElements x x -> y axis=1", ""),
        ("Compress x which -> y axis=1", "which=[1,0,0,1]"),
    ] {
        assert_independent(X, nodes, constants);
    }
}

#[test]
fn images_sequences_and_attention_keep_rows_independent() {
    let network = "Conv x k -> c pads=[1,1,1,1]; BatchNormalization c s s s s -> b; Relu b -> r; \
        MaxPool r -> p kernel_shape=[2,2] strides=[2,2]; Reshape p t -> f; MatMul f w -> y";
    assert_independent("x:n,1,8,8", network, "k:4,1,3,3 s:4 t=[-1,64] w:64,5");
    let heads = "Shape x -> s; Gather s zero -> n; Gather s one -> l; Transpose x -> t perm=[1,0,2]; Mul n two -> nh; \
        Concat l nh two -> d axis=0; Reshape t d -> h; Transpose h -> q perm=[1,0,2]; Transpose h -> k perm=[1,2,0]; \
        MatMul q k -> g; Softmax g -> p; MatMul p q -> o; Transpose o -> u perm=[1,0,2]; Mul l n -> ln; \
        Concat ln four -> e axis=0; Reshape u e -> v; MatMul v w -> z; Concat l n four -> f axis=0; Reshape z f -> r; \
        Transpose r -> y perm=[1,0,2]";
    assert_independent("x:n,s,4", heads, "zero=[0] one=[1] two=[2] four=[4] w:4,4");
    let states = "Transpose x -> t perm=[1,0,2]; Shape x -> s; Slice s zero one -> n; Concat one n four -> d axis=0; \
        ConstantOfShape d -> h; GRU t w r _ _ h -> all last hidden_size=4; Squeeze last zero -> y";
    assert_independent("x:n,s,3", states, "w:1,12,3 r:1,12,4 zero=[0] one=[1] four=[4]");
    assert_independent("q:n,s,8 mask:n,1,s,s", "Attention q q q mask -> y q_num_heads=2 kv_num_heads=2", "");
    assert_unknown("q:n,s,8", "Attention q q q mask -> y q_num_heads=2 kv_num_heads=2", "mask:3,1,5,5");
    let fused = "com.microsoft::Attention x w b _ -> a num_heads=2; com.microsoft::SkipLayerNormalization a x g -> y";
    assert_independent("x:n,s,8", fused, "w:8,24 b:24 g:8");
    assert_unknown("x:n,2,4,4", "GridSample x grid -> y", "grid:1,8,8,2");
    let resized = "Shape x -> s; Slice s zero two -> n; Concat n size -> d axis=0; Resize x _ _ d -> y";
    assert_independent("x:n,2,h,w", resized, "zero=[0] two=[2] size=[8,8]");
}

#[test]
fn an_output_must_have_one_slice_per_row() {
    assert_dependent(X, "Transpose x -> y", "", "output \"y\" holds the batch on axis 1");
    assert_dependent(
        X,
        "Reshape x flat -> y",
        "flat=[-1]",
        "output \"y\" has several elements for each row on its first axis",
    );
    assert_dependent(X, "Identity w -> y", "w:4", "output \"y\" has no batch axis");
    let reason = "Add \"y\" combines the batch axis with an axis of fixed length";
    assert_dependent(X, "Add x w -> y", "w:3,4", reason);
    // Before operator set 13, `axis` is the first of the axes that are normalised together.
    let mut old = model("x:n,4,4", "Softmax x -> y axis=0", "y", "");
    old.opset_import = vec![set("", 11)];
    assert_eq!(rows(&old), RowAnalysis::Dependent("Softmax \"y\" normalises over the batch axis".to_owned()));
}

#[test]
fn unsupported_operators_give_an_unknown_result() {
    assert_unknown(X, "elsewhere::Peak x -> y", "");
    assert_unknown(X, "Reshape x x -> y", "");
    assert_unknown(X, "NonZero x -> z; Transpose z -> t; ScatterND x t w -> y", "w:1");
    assert_unknown(
        X,
        "Slice x last first zero last -> a; Slice a last first zero last -> y",
        "last=[-1] first=[-9] zero=[0]",
    );
    assert_unknown("x:1,4", "Relu x -> y", "");
    assert_unknown("x:", "Relu x -> y", "");
    // Coupled rows stay coupled.
    let reason = "ReduceMax \"p\" reduces over the batch axis";
    assert_dependent(X, "ReduceMax x -> p; elsewhere::Peak p x -> y", "", reason);
}

#[test]
fn branches_and_loops_are_evaluated() {
    let reason = || RowAnalysis::Dependent("ReduceMean \"m\" reduces over the batch axis".to_owned());
    let centred = || graph("", "ReduceMean x -> m axes=[0]; Sub x m -> c", "c", "");
    let same = || graph("", "Identity x -> i", "i", "");
    let either = |then, otherwise| {
        let both = vec![body("then_branch", then), body("else_branch", otherwise)];
        with_bodies(model(X, "If on -> y", "y", "on:"), "y", both)
    };
    assert_eq!(rows(&either(centred(), same())), reason());
    assert_eq!(rows(&either(same(), same())), RowAnalysis::Independent);
    let nested = with_bodies(
        Model { graph: Some(graph("", "If on -> z", "z", "")), ..Model::default() },
        "z",
        vec![body("then_branch", same()), body("else_branch", centred())],
    );
    assert_eq!(rows(&either(nested.graph.unwrap(), same())), reason());

    let repeated = |step: &str| {
        let round = graph("i on before", &format!("Identity on -> still; {step}"), "still after out", "one=[1] w:4,4");
        with_bodies(model(X, "Loop three _ x -> y all", "y", "three=3"), "y", vec![body("body", round)])
    };
    let apart = "MatMul before w -> after; ReduceSum after one -> out";
    assert_eq!(rows(&repeated(apart)), RowAnalysis::Independent);
    assert_eq!(rows(&repeated("ReduceMean before -> m axes=[0]; Sub before m -> after; Identity i -> out")), reason());

    let scan = |axis: i64, start: &str| {
        let step = graph("before part", "Max before part -> after; Identity after -> out", "after out", "");
        let text =
            format!("{start}; Scan h x -> last y num_scan_inputs=1 scan_input_axes=[{axis}] scan_output_axes=[1]");
        with_bodies(model("x:n,s,4", &text, "y", "zero=[0] four=[4]"), "y", vec![body("body", step)])
    };
    let states = "Shape x -> s; Gather s zero -> n; Concat n four -> d axis=0; ConstantOfShape d -> h";
    assert_eq!(rows(&scan(1, states)), RowAnalysis::Independent);
    let over_rows = scan(0, "Gather four zero -> h");
    assert_eq!(rows(&over_rows), RowAnalysis::Dependent("Scan \"last\" carries a state from row to row".to_owned()));
}

#[test]
fn functions_of_the_model_are_evaluated_with_their_attributes() {
    let mut made = model(X, "made::Peak x -> y over=[0]", "y", "");
    let mut function = crate::onnx::proto::Function {
        domain: "made".to_owned(),
        name: "Peak".to_owned(),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![node("ReduceMax a -> p"), node("Sub a p -> b")],
        opset_import: vec![set("", 17)],
        ..Default::default()
    };
    function.node[0].attribute =
        vec![Attribute { name: "axes".to_owned(), ref_attr_name: "over".to_owned(), ..Attribute::default() }];
    made.functions = vec![function];
    assert_eq!(rows(&made), RowAnalysis::Dependent("ReduceMax \"p\" reduces over the batch axis".to_owned()));
    made.graph.as_mut().unwrap().node[0].attribute = vec![attribute("over=[1]")];
    assert_eq!(rows(&made), RowAnalysis::Independent);
}
