"""Asks a running model_api for answers and speed, and compares two such runs. Called by gpu_check.sh; standard library only.

    gpu_check.py measure URL MODELS_DIR SECONDS RESULT.json
    gpu_check.py compare FIRST.json SECOND.json TOLERANCE
"""

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
ROWS = [1, 8, 32]
LARGEST_BODY = 100 << 20


def ask(connection, path, body, media_type):
    connection.request("POST", path, body, {"Content-Type": media_type})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        sys.exit(f"{path}: {response.status} {answer}")
    return answer


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
    """`count` rows of noise as an `image_arr` body. One decimal keeps the JSON small."""
    shape = [length for length in model["inputs"][0]["shape"][1:]]
    numbers = random.Random(7)

    def block(lengths):
        if not lengths:
            return f"{numbers.random():.1f}"
        return "[" + ",".join(block(lengths[1:]) for _ in range(lengths[0])) + "]"

    return ('{"image_arr":' + block([count, *shape]) + "}").encode()


def work(url, path, bodies, media_type, seconds, results):
    """One client: asks again and again on one connection, and hands over how often and how long the session took."""
    connection = connect(url)
    asked, infer = 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask(connection, path, bodies[asked % len(bodies)], media_type)
        infer.append(answer.get("timing_ms", {}).get("infer", math.nan))
        asked += 1
    infer.sort()
    results.put((asked, infer[len(infer) // 2]))


def images_per_second(url, path, bodies, media_type, clients, seconds):
    results = multiprocessing.Queue()
    arguments = (url, path, bodies, media_type, seconds, results)
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
        connection = connect(url)
        samples = find_samples(models_dir, name)
        entry = report[name] = {"device": device, "answers": {}, "speed": {}}
        if model["image"] and samples:
            for file, picture in samples.items():
                answer = ask(connection, f"/predict/{name}", picture, "application/octet-stream")
                entry["answers"][file] = [score["value"] for score in answer["probabilities"]]
            for clients in CONNECTIONS:
                pictures = list(samples.values())
                speed, infer = images_per_second(url, f"/predict/{name}", pictures, "application/octet-stream", clients, seconds)
                entry["speed"][f"pictures, {clients} clients"] = speed
                print(f"{name} on {device}: {clients:3} clients {speed:9.1f} images/s, session {infer:.3f} ms", flush=True)
        for rows in ROWS if all(length > 0 for length in model["inputs"][0]["shape"][1:]) else []:
            body = make_rows(model, rows)
            if len(body) > LARGEST_BODY:
                continue
            answer = ask(connection, f"/predict_array/{name}", body, "application/json")
            entry["answers"][f"{rows} rows of noise"] = [answer["value"]]
            speed, _ = images_per_second(url, f"/predict_array/{name}", [body], "application/json", 1, seconds)
            entry["speed"][f"batches of {rows}"] = speed * rows
            print(f"{name} on {device}: batches of {rows:3} {speed * rows:9.1f} images/s (JSON in, one client)", flush=True)
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
