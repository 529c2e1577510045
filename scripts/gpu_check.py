"""Asks a running model_api for answers and speed, and compares two such runs. Called by gpu_check.sh; standard library only.

    gpu_check.py measure URL MODELS_DIR SECONDS RESULT.json
    gpu_check.py compare FIRST.json SECOND.json TOLERANCE
"""

import array
import http.client
import json
import math
import multiprocessing
import pathlib
import random
import sys
import time
import urllib.parse

CONNECTIONS = [1, 4, 16, 64]
ROWS = [1, 8, 32, 64]
CLIENTS_OF_BATCHES = 4
LARGEST_BODY = 100 << 20


def ask(connection, model, body, headers):
    """The model's answer: the values of its first output, and the milliseconds that the session took."""
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        sys.exit(f"{model}: {response.status} {answer}")
    return answer["outputs"][0]["data"], answer["parameters"]["infer_ms"]


def connect(url):
    address = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(address.hostname, address.port, timeout=120)


def describe_models(url):
    connection = connect(url)
    connection.request("GET", "/models")
    return json.loads(connection.getresponse().read())["models"]


def find_samples(models_dir, name):
    """The pictures that are shipped with the model, as bytes by file name."""
    folder = pathlib.Path(models_dir) / name / "samples"
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*")) if file.suffix in (".png", ".jpg", ".bmp")}


def make_rows(model, count):
    """`count` rows of noise as a binary tensor, and the headers that say so."""
    tensor = model["inputs"][0]
    numbers = random.Random(7)
    block = array.array("f", (numbers.random() for _ in range(math.prod(tensor["shape"][1:])))).tobytes() * count
    described = {"name": tensor["name"], "datatype": "FP32", "shape": [count, *tensor["shape"][1:]]}
    described["parameters"] = {"binary_data_size": len(block)}
    head = json.dumps({"inputs": [described]}).encode()
    return head + block, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def work(url, model, bodies, headers, seconds, results):
    """One client: asks again and again on one connection, and hands over how often and how long the session took."""
    connection = connect(url)
    asked, infer = 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        infer.append(ask(connection, model, bodies[asked % len(bodies)], headers)[1])
        asked += 1
    infer.sort()
    results.put((asked, infer[len(infer) // 2]))


def questions_per_second(url, model, bodies, headers, clients, seconds):
    results = multiprocessing.Queue()
    arguments = (url, model, bodies, headers, seconds, results)
    processes = [multiprocessing.Process(target=work, args=arguments) for _ in range(clients)]
    begun = time.monotonic()
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=seconds + 180) for _ in processes]
    for process in processes:
        process.join()
    passed = time.monotonic() - begun
    return sum(asked for asked, _ in outcomes) / passed, sum(infer for _, infer in outcomes) / len(outcomes)


def measure(url, models_dir, seconds, result):
    report = {}
    for model in describe_models(url):
        name = model["name"]
        device = model["device"]["name"]
        entry = report[name] = {"device": device, "answers": {}, "speed": {}}
        samples = find_samples(models_dir, name)
        if model["image"] and samples:
            headers = {"Content-Type": "application/octet-stream"}
            for file, picture in samples.items():
                entry["answers"][file] = ask(connect(url), name, picture, headers)[0]
            for clients in CONNECTIONS:
                speed, infer = questions_per_second(url, name, list(samples.values()), headers, clients, seconds)
                entry["speed"][f"pictures, {clients} clients"] = speed
                print(f"{name} on {device}: {clients:3} clients {speed:9.1f} images/s, session {infer:.3f} ms", flush=True)
        for rows in ROWS if all(length > 0 for length in model["inputs"][0]["shape"][1:]) else []:
            body, headers = make_rows(model, rows)
            if len(body) > LARGEST_BODY:
                continue
            entry["answers"][f"{rows} rows of noise"] = ask(connect(url), name, body, headers)[0]
            speed, infer = questions_per_second(url, name, [body], headers, CLIENTS_OF_BATCHES, seconds)
            entry["speed"][f"batches of {rows}"] = speed * rows
            print(f"{name} on {device}: batches of {rows:3} {speed * rows:9.1f} images/s, session {infer:.3f} ms", flush=True)
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
            print(f"  {what:22} {speed:9.1f} → {other['speed'][what]:9.1f} images/s ({other['speed'][what] / speed:.1f}×)")
    print("\n" + ("passed" if good else "FAILED"))
    return 0 if good else 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", url, models_dir, seconds, result]:
            measure(url, models_dir, float(seconds), result)
        case ["compare", first, second, tolerance]:
            sys.exit(compare(first, second, float(tolerance)))
        case _:
            sys.exit(__doc__)
