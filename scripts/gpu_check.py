"""Measures results and throughput of a running model_api, and compares two such runs. Called by gpu_check.sh; standard library only.

    gpu_check.py measure PORT FOLDER SECONDS RESULT.json     FOLDER holds `load` and models/; metrics at PORT + 1
    gpu_check.py compare FIRST.json SECOND.json TOLERANCE
"""

import array
import http.client
import json
import math
import pathlib
import random
import subprocess
import sys

CONNECTIONS = [1, 4, 16, 64, 256]
ROWS = [1, 8, 32, 64]
CONNECTIONS_OF_BATCHES = 8
MAX_BODY = 100 << 20


def connect(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=120)


def get(port, path):
    connection = connect(port)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def infer(port, model, body, headers):
    """The values of the first output."""
    connection = connect(port)
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        sys.exit(f"{model}: {response.status} {answer}")
    return answer["outputs"][0]["data"]


def find_samples(models_dir, name):
    """The sample images of the model, as bytes by file."""
    folder = pathlib.Path(models_dir) / name / "samples"
    return {file: file.read_bytes() for file in sorted(folder.glob("*")) if file.suffix in (".png", ".jpg", ".bmp")}


def make_rows(model, count):
    """`count` rows of noise as a binary tensor, and its headers."""
    tensor = model["inputs"][0]
    numbers = random.Random(7)
    block = array.array("f", (numbers.random() for _ in range(math.prod(tensor["shape"][1:])))).tobytes() * count
    described = {"name": tensor["name"], "datatype": "FP32", "shape": [count, *tensor["shape"][1:]]}
    described["parameters"] = {"binary_data_size": len(block)}
    head = json.dumps({"inputs": [described]}).encode()
    return head + block, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def runs_so_far(port, model):
    """How often the model's sessions have run, and with how many rows and for how many seconds in all."""
    lines = dict(line.rsplit(" ", 1) for line in get(port + 1, "/metrics").splitlines() if line[:1] not in "#")
    names = ("runs_total", "batch_rows_sum", "run_seconds_sum")
    return [float(lines[f'model_api_{name}{{model="{model}"}}']) for name in names]


def speed_of(port, folder, model, seconds, **options):
    """Rows a second with the load generator, and in words what the sessions did."""
    before = runs_so_far(port, model)
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    path = f"/v2/models/{model}/infer"
    command = [f"{folder}/load", f"127.0.0.1:{port}", "--path", path, "--cache", "miss", "--seconds", seconds, *words]
    figures = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    statuses = figures["statuses"]
    if figures["failures"] or set(statuses) - {"200", "503"}:
        sys.exit(f"{model}: {statuses} {figures['failures']}")
    runs, rows, took = (now - then for now, then in zip(runs_so_far(port, model), before, strict=True))
    speed = statuses.get("200", 0) / figures["seconds"] * options.get("rows", 1)
    latency = figures["latency_us"]
    words = f"p50 {latency['p50'] / 1e3:.1f} ms, p99 {latency['p99'] / 1e3:.1f} ms; {rows / runs:.1f} rows and {took / runs * 1e3:.2f} ms a run"
    if "503" in statuses:
        words += f"; {statuses['503']} times 503"
    return speed, words


def measure(port, folder, seconds, result):
    report = {}
    for model in json.loads(get(port, "/models"))["models"]:
        name, device = model["name"], model["device"]["name"]
        entry = report[name] = {"device": device, "answers": {}, "speed": {}}

        def note(what, rate):
            entry["speed"][what] = rate[0]
            print(f"{name} on {device}: {what:25} {rate[0]:9.1f} images/s; {rate[1]}", flush=True)

        samples = find_samples(folder / "models", name)
        if model["image"] and samples:
            for file, image in samples.items():
                entry["answers"][file.name] = infer(port, name, image, {"Content-Type": "application/octet-stream"})
            for count in CONNECTIONS:
                options = {"format": "png", "image": next(iter(samples)), "connections": count}
                note(f"images, {count} connections", speed_of(port, folder, name, seconds, **options))
        tensor = model["inputs"][0]
        row = tensor["shape"][1:]
        for rows in ROWS if all(length > 0 for length in row) else []:
            body, headers = make_rows(model, rows)
            if len(body) > MAX_BODY:
                continue
            entry["answers"][f"{rows} rows of noise"] = infer(port, name, body, headers)
            options = {"format": "binary", "input": tensor["name"], "shape": "x".join(map(str, row)), "rows": rows}
            note(f"batches of {rows}", speed_of(port, folder, name, seconds, **options, connections=CONNECTIONS_OF_BATCHES))
    pathlib.Path(result).write_text(json.dumps(report))


def compare(first, second, tolerance):
    first, second = (json.loads(pathlib.Path(file).read_text()) for file in (first, second))
    good = bool(first)
    for name in first:
        one, other = first[name], second[name]
        print(f"\n{name}: {one['device']} against {other['device']}")
        largest = 0.0
        for what, values in one["answers"].items():
            largest = max([largest, *(abs(a - b) for a, b in zip(values, other["answers"][what], strict=True))])
        agrees = bool(one["answers"]) and largest <= tolerance
        good = good and agrees
        verdict = "agree" if agrees else "DO NOT AGREE"
        print(f"  {len(one['answers'])} answers {verdict}: largest difference {largest:.2e}, allowed {tolerance:g}")
        for what, speed in one["speed"].items():
            print(f"  {what:25} {speed:9.1f} → {other['speed'][what]:9.1f} images/s ({other['speed'][what] / speed:.1f}×)")
    print("\n" + ("passed" if good else "FAILED"))
    return 0 if good else 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", port, folder, seconds, result]:
            measure(int(port), pathlib.Path(folder), seconds, result)
        case ["compare", first, second, tolerance]:
            sys.exit(compare(first, second, float(tolerance)))
        case _:
            sys.exit(__doc__)
