"""Exports of common libraries, and small graphs, in which each row's result depends on that row alone.

`ALL` maps a name to what makes the model, and to what makes one row of its inputs. All of them may be run on rows of
several requests together.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Callable

import numpy as np
import onnx
import onnxmltools
from lightgbm import LGBMClassifier, LGBMRegressor
from onnx import TensorProto, helper
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType as Floats
from skl2onnx.common.data_types import StringTensorType as Strings
from sklearn import compose, decomposition, discriminant_analysis, ensemble, feature_extraction, linear_model, multiclass
from sklearn import mixture, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_iris
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from xgboost import XGBClassifier, XGBRegressor

import coupling_graphs
from coupling_graphs import Rows
from services import MODELS

IRIS, KINDS = load_iris(return_X_y=True)
IRIS = IRIS.astype(np.float32)
PATIENTS, PROGRESS = load_diabetes(return_X_y=True)
PATIENTS = PATIENTS.astype(np.float32)
OPSETS = {"": 17, "ai.onnx.ml": 3}


@dataclass
class Case:
    make: Callable[[], onnx.ModelProto]
    rows: Rows
    needs_torch: bool = False
    """Made by PyTorch's exporter."""
    is_proved: bool = True
    """Whether the graph alone shows it: where it does not, the probe does."""


ALL: dict[str, Case] = {}


def flowers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"X": IRIS[rng.integers(len(IRIS), size=1)]}


def patients(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"X": PATIENTS[rng.integers(len(PATIENTS), size=1)]}


# ---- scikit-learn ---------------------------------------------------------------------------------------------------


def sklearn(name: str, estimator: object, rows: Rows = flowers, **more: object) -> None:
    X, y = (IRIS, KINDS) if rows is flowers else (PATIENTS, PROGRESS)

    def make() -> onnx.ModelProto:
        fitted = estimator.fit(X, y)
        options = {"zipmap": False} if hasattr(fitted, "classes_") and hasattr(fitted, "predict_proba") else None
        return to_onnx(fitted, X[:1], options=options, target_opset=OPSETS)

    ALL[f"sklearn-{name}"] = Case(make, rows, **more)


sklearn("logistic-regression", linear_model.LogisticRegression(max_iter=500))
sklearn("random-forest", ensemble.RandomForestClassifier(10, random_state=0))
sklearn("gradient-boosting", ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0))
sklearn("histogram-boosting", ensemble.HistGradientBoostingClassifier(max_iter=10))
sklearn("extra-trees", ensemble.ExtraTreesClassifier(10, random_state=0))
sklearn("ada-boost", ensemble.AdaBoostClassifier(n_estimators=5, random_state=0))
sklearn("bagging", ensemble.BaggingClassifier(n_estimators=5, random_state=0))
sklearn("voting", ensemble.VotingClassifier([("a", linear_model.LogisticRegression(max_iter=500)), ("b", naive_bayes.GaussianNB())], voting="soft", flatten_transform=False))
sklearn("decision-tree", tree.DecisionTreeClassifier(random_state=0))
sklearn("svc", svm.SVC(probability=False))
sklearn("linear-svc", svm.LinearSVC())
sklearn("perceptron", neural_network.MLPClassifier((8,), max_iter=50, random_state=0))
sklearn("naive-bayes", naive_bayes.GaussianNB())
sklearn("discriminant", discriminant_analysis.LinearDiscriminantAnalysis())
sklearn("neighbours", neighbors.KNeighborsClassifier(3))
sklearn("one-vs-rest", multiclass.OneVsRestClassifier(linear_model.LogisticRegression()))
sklearn("calibrated", CalibratedClassifierCV(svm.LinearSVC(), cv=2))
sklearn("k-means", KMeans(3, n_init=1, random_state=0))
sklearn("mixture", mixture.GaussianMixture(3, random_state=0))
sklearn("isolation-forest", ensemble.IsolationForest(n_estimators=10, random_state=0))
sklearn("pca", decomposition.PCA(2))
sklearn("ridge", linear_model.Ridge(), patients)
sklearn("svr", svm.SVR(), patients)
sklearn("forest-regressor", ensemble.RandomForestRegressor(10, random_state=0), patients)
sklearn("scaled-pca-logistic", pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(2), linear_model.LogisticRegression()))
sklearn("imputed-polynomial", pipeline.make_pipeline(SimpleImputer(), preprocessing.PolynomialFeatures(2), preprocessing.MinMaxScaler(), SelectKBest(k=5), linear_model.LogisticRegression(max_iter=500)))
sklearn("normalised-union", pipeline.make_union(preprocessing.Normalizer(), preprocessing.MaxAbsScaler(), preprocessing.RobustScaler()))

WORDS = np.array([["red"], ["green"], ["blue"]], object)


def table() -> onnx.ModelProto:
    """Columns of two kinds, each with its own preparation."""
    import pandas

    frame = pandas.DataFrame({"colour": WORDS[KINDS, 0], **{f"a{place}": IRIS[:, place] for place in range(4)}})
    numbers = [f"a{place}" for place in range(4)]
    columns = compose.ColumnTransformer([("words", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["colour"]), ("numbers", preprocessing.StandardScaler(), numbers)])
    fitted = pipeline.make_pipeline(columns, linear_model.LogisticRegression(max_iter=500)).fit(frame, KINDS)
    types = [("colour", Strings([None, 1])), *((name, Floats([None, 1])) for name in numbers)]
    return to_onnx(fitted, initial_types=types, options={"zipmap": False}, target_opset=OPSETS)


def table_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    row = IRIS[rng.integers(len(IRIS), size=1)]
    return {"colour": WORDS[rng.integers(3, size=1)], **{f"a{place}": row[:, place : place + 1] for place in range(4)}}


def texts() -> onnx.ModelProto:
    fitted = pipeline.make_pipeline(feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression())
    fitted.fit(["ripe red apple", "green sour apple", "yellow sweet pear", "soft pear"], [0, 0, 1, 1])
    return to_onnx(fitted, initial_types=[("text", Strings([None, 1]))], options={"zipmap": False}, target_opset=OPSETS)


def text_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    words = ["ripe", "red", "green", "sour", "apple", "yellow", "pear", "soft"]
    return {"text": np.array([[" ".join(rng.choice(words, rng.integers(1, 9)))]], object)}


ALL["sklearn-columns"] = Case(table, table_rows)
ALL["sklearn-text"] = Case(texts, text_rows, is_proved=False)

# ---- XGBoost, LightGBM ----------------------------------------------------------------------------------------------


def boosted(convert: Callable, estimator: object, rows: Rows) -> Callable[[], onnx.ModelProto]:
    X, y = (IRIS, KINDS) if rows is flowers else (PATIENTS, PROGRESS)
    return lambda: convert(estimator.fit(X, y), initial_types=[("X", FloatTensorType([None, X.shape[1]]))], target_opset=15)


def without_zipmap(convert: Callable) -> Callable:
    return lambda *given, **named: convert(*given, zipmap=False, **named)


ALL["xgboost-classifier"] = Case(boosted(onnxmltools.convert_xgboost, XGBClassifier(n_estimators=5), flowers), flowers)
ALL["xgboost-regressor"] = Case(boosted(onnxmltools.convert_xgboost, XGBRegressor(n_estimators=5), patients), patients)
ALL["lightgbm-classifier"] = Case(boosted(without_zipmap(onnxmltools.convert_lightgbm), LGBMClassifier(n_estimators=5, verbose=-1), flowers), flowers)
ALL["lightgbm-regressor"] = Case(boosted(onnxmltools.convert_lightgbm, LGBMRegressor(n_estimators=5, verbose=-1), patients), patients)

# ---- Graphs made by hand --------------------------------------------------------------------------------------------

RNG = np.random.default_rng(11)


def floats(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def add(name: str, nodes: list[tuple], shape: tuple, y: tuple, opset: int = 17, **constants: object) -> None:
    inputs = {"x": (TensorProto.FLOAT, ["n", *shape])}
    outputs = {"y": (TensorProto.FLOAT, ["n", *y])}
    sizes = [3 if isinstance(size, str) else size for size in shape]
    made = coupling_graphs.model(nodes, inputs, outputs, opset, **constants)
    ALL[name] = Case(lambda: made, lambda rng: {"x": rng.standard_normal((1, *sizes)).astype(np.float32)})


add("perceptron", [("Gemm", "x w b", "h", {"transB": 1}), ("Relu", "h", "r"), ("MatMul", "r v", "l"), ("Softmax", "l", "y", {"axis": -1})], (4,), (3,), w=floats(8, 4), b=floats(8), v=floats(8, 3))
add(
    "flattened-by-shape",
    [
        ("Conv", "x k", "c", {"pads": [1, 1, 1, 1]}), ("MaxPool", "c", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Shape", "p", "s"), ("Gather", "s zero", "n"), ("Concat", "n rest", "t", {"axis": 0}), ("Reshape", "p t", "f"), ("MatMul", "f w", "y"),
    ],
    (1, 8, 8), (5,), k=floats(4, 1, 3, 3), zero=np.array([0]), rest=np.array([-1]), w=floats(64, 5),
)
add(
    "states-by-shape",
    [
        ("Transpose", "x", "t", {"perm": [1, 0, 2]}), ("Shape", "x", "s"), ("Slice", "s zero one", "n"), ("Concat", "one n size", "d", {"axis": 0}),
        ("ConstantOfShape", "d", "h"), ("LSTM", "t w r . . h h", "all last", {"hidden_size": 4}), ("Squeeze", "last zero", "y"),
    ],
    (6, 3), (4,), w=floats(1, 16, 3), r=floats(1, 16, 4), zero=np.array([0]), one=np.array([1]), size=np.array([4]),
)
add(
    "class-token-by-expand",
    [
        ("Shape", "x", "s"), ("Gather", "s zero", "n"), ("Concat", "n one size", "d", {"axis": 0}), ("ConstantOfShape", "three", "ones", {"value": helper.make_tensor("v", TensorProto.INT64, [1], [1])}),
        ("Mul", "ones minus", "m"), ("Equal", "d m", "e"), ("Where", "e ones d", "full"), ("Expand", "token full", "c"), ("Concat", "c x", "a", {"axis": 1}), ("Add", "a position", "p"),
        ("ReduceMean", "p", "y", {"axes": [1], "keepdims": 0}),
    ],
    (5, 4), (4,), zero=np.array([0]), one=np.array([1]), size=np.array([4]), three=np.array([3]), minus=np.array(-1), token=floats(1, 1, 4), position=floats(1, 6, 4),
)
add(
    "heads-by-shape",
    [
        ("Shape", "x", "s"), ("Gather", "s zero", "n"), ("Gather", "s one", "l"), ("Concat", "n l two two", "h", {"axis": 0}), ("Reshape", "x h", "q"),
        ("Transpose", "q", "a", {"perm": [0, 2, 1, 3]}), ("Transpose", "q", "b", {"perm": [0, 2, 3, 1]}), ("MatMul", "a b", "g"), ("Softmax", "g", "p"), ("MatMul", "p a", "o"),
        ("Transpose", "o", "t", {"perm": [0, 2, 1, 3]}), ("Concat", "n l four", "back", {"axis": 0}), ("Reshape", "t back", "y"),
    ],
    ("s", 4), ("s", 4), zero=np.array([0]), one=np.array([1]), two=np.array([2]), four=np.array([4]),
)
add("softmax-of-images", [("Softmax", "x", "y", {"axis": 1})], (4, 2, 2), (4, 2, 2), opset=11)
add("running-sum-in-time", [("CumSum", "x axis", "c"), ("ReduceMax", "c", "y", {"axes": [-1], "keepdims": 0})], (6,), (), axis=np.int64(1))
add("sorted-features", [("TopK", "x k", "v i"), ("Cast", "i", "f", {"to": 1}), ("Add", "v f", "y")], (6,), (3,), k=np.array([3]))
add("fixed-scale-quantisation", [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "y")], (4,), (4,), s=np.float32(0.02), z=np.uint8(128))
add(
    "quantised-product",
    [("QuantizeLinear", "x s z", "q"), ("QLinearMatMul", "q s z w s none s z", "p"), ("DequantizeLinear", "p s z", "y")], (4,), (3,),
    s=np.float32(0.05), z=np.uint8(128), w=RNG.integers(-127, 127, (4, 3)).astype(np.int8), none=np.int8(0),
)
add("group-norm", [("Reshape", "x groups", "g"), ("InstanceNormalization", "g s b", "i"), ("Reshape", "i back", "y")], (4, 3), (4, 3), groups=np.array([0, 2, -1]), back=np.array([-1, 4, 3]), s=np.ones(2, np.float32), b=np.zeros(2, np.float32))
add("upscaled", [("Resize", "x . scales", "r", {"mode": "linear"}), ("Conv", "r k", "y")], (2, 4, 4), (3, 8, 8), scales=np.array([1, 1, 2, 2], np.float32), k=floats(3, 2, 1, 1))
add(
    "upscaled-to-shape",
    [("Shape", "x", "s"), ("Slice", "s zero two", "n"), ("Concat", "n size", "d", {"axis": 0}), ("Resize", "x . . d", "y", {"mode": "nearest"})],
    (2, "h", "w"), (2, 8, 8), zero=np.array([0]), two=np.array([2]), size=np.array([8, 8]),
)
add("bilinear-form", [("Einsum", "x w x", "y", {"equation": "bi,ij,bj->b"})], (4,), (), w=floats(4, 4))
ROUND = coupling_graphs.body(
    [("MatMul", "before w", "m"), ("Tanh", "m", "after"), ("Identity", "on", "still"), ("ReduceSum", "after one", "out", {"keepdims": 0})],
    [("i", TensorProto.INT64, []), ("on", TensorProto.BOOL, []), ("before", TensorProto.FLOAT, None)],
    [("still", TensorProto.BOOL, []), ("after", TensorProto.FLOAT, None), ("out", TensorProto.FLOAT, None)],
)
add("three-rounds", [("Loop", "three . x", "y all", {"body": ROUND})], (4,), (4,), three=np.int64(3), w=floats(4, 4), one=np.array([1]))
STEP = coupling_graphs.body(
    [("Add", "before part", "sum"), ("Tanh", "sum", "after"), ("Identity", "after", "out")],
    [("before", TensorProto.FLOAT, None), ("part", TensorProto.FLOAT, None)], [("after", TensorProto.FLOAT, None), ("out", TensorProto.FLOAT, None)],
)
add(
    "scan-in-time",
    [("Shape", "x", "s"), ("Gather", "s zero", "n"), ("Concat", "n size", "d", {"axis": 0}), ("ConstantOfShape", "d", "h"), ("Scan", "h x", "y all", {"body": STEP, "num_scan_inputs": 1, "scan_input_axes": [1]})],
    (6, 4), (4,), zero=np.array([0]), size=np.array([4]),
)

# ---- The models that ship -------------------------------------------------------------------------------------------


def shipped(name: str, *shape: int) -> None:
    ALL[name] = Case(lambda: onnx.load(MODELS / name / "1" / "model.onnx"), lambda rng: {"image": rng.random((1, *shape), np.float32)})


shipped("mnist", 28, 28, 1)
shipped("leukemia", 3, 450, 450)

# ---- PyTorch --------------------------------------------------------------------------------------------------------


def exported(build: Callable, shape: tuple[int, ...], integers: int = 0, open_length: bool = False, by_tracing: bool = False) -> Case:
    """A module by one of PyTorch's two exporters; with integers its input are numbers up to there."""

    def rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
        if integers:
            return {"x": rng.integers(integers, size=(1, *shape))}
        return {"x": rng.standard_normal((1, *shape)).astype(np.float32)}

    def make() -> onnx.ModelProto:
        import torch

        torch.manual_seed(0)
        module = build(torch.nn).eval()
        example = torch.from_numpy(np.concatenate([rows(np.random.default_rng(0))["x"]] * 2))
        file = io.BytesIO()
        if by_tracing:
            axes = {"x": {0: "n", **({1: "s"} if open_length else {})}}
            torch.onnx.export(module, (example,), file, input_names=["x"], output_names=["y"], dynamic_axes=axes, opset_version=17, dynamo=False)
        else:
            dims = {0: torch.export.Dim("n"), **({1: torch.export.Dim("s")} if open_length else {})}
            program = torch.onnx.export(module, (example,), input_names=["x"], output_names=["y"], dynamic_shapes=(dims,), dynamo=True, verbose=False)
            program.save(file)
        return onnx.load_from_string(file.getvalue())

    return Case(make, rows, needs_torch=True)


def convolutional(nn):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10), nn.Softmax(-1),
    )


def recurrent(kind: str) -> Callable:
    def build(nn):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.cells = getattr(nn, kind)(4, 6, num_layers=2, batch_first=True, bidirectional=True)
                self.head = nn.Linear(12, 3)

            def forward(self, x):
                return self.head(self.cells(x)[0][:, -1])

        return Model()

    return build


def encoder(nn):
    import torch

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
            layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            places = torch.arange(x.shape[1], device=x.device)
            return self.head(self.layers(self.words(x) + self.places(places)).mean(1))

    return Model()


def vision(nn):
    """A vision transformer: patches, a class token, attention by hand."""
    import torch

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
            self.qkv, self.norm, self.head = nn.Linear(16, 48), nn.LayerNorm(16), nn.Linear(16, 5)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
            n, s, d = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(n, s, 3, 4, d // 4).permute(2, 0, 3, 1, 4).unbind(0)
            x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, s, d)
            return self.head(x[:, 0])

    return Model()


def segmenting(nn):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.middle = nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.InstanceNorm2d(8), nn.SiLU())
            self.up, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            low = self.middle(self.down(x))
            high = nn.functional.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False)
            return self.out(self.up(low) + high)

    return Model()


TORCH = {
    "cnn": (convolutional, (1, 14, 14), {}),
    "lstm": (recurrent("LSTM"), (7, 4), {"open_length": True}),
    "gru": (recurrent("GRU"), (7, 4), {}),
    "encoder": (encoder, (9,), {"integers": 50, "open_length": True}),
    "vision": (vision, (3, 8, 8), {}),
    "segmentation": (segmenting, (3, 16, 16), {}),
}
for name, (build, shape, more) in TORCH.items():
    ALL[f"torch-{name}"] = exported(build, shape, **more)
    ALL[f"torch-{name}-traced"] = exported(build, shape, by_tracing=True, **more)
