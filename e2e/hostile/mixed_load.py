"""All attacks in turn beside steady traffic, and what that traffic notices.

    python e2e/hostile/mixed_load.py URL [--minutes 10]

URL is a stack that serves mnist. First a quiet minute, for the normal times; then the attacks, one after the other, until the time is
over. Exit code 0 if no result was wrong, no request failed, and the 99th percentile was at most twice the normal one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attacks import Client, all_attacks  # noqa: E402

QUIET_S = 60
MAX_RATIO = 2.0


def run_attack(url: str, name: str) -> float:
    """In a process of its own, at the lowest priority: what the attacker computes is not the server's work."""
    begun = time.monotonic()
    command = ["nice", "-n", "19", sys.executable, __file__, url, "--attack", name]
    subprocess.run(command, timeout=120, check=False, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--attack", help="send this one attack and end")
    arguments = parser.parse_args()
    if arguments.attack:
        all_attacks()[arguments.attack](arguments.url)
        return 0
    client = Client(arguments.url)
    with client:
        time.sleep(QUIET_S)
    normal = client.record
    deadline, attacks = time.monotonic() + 60 * arguments.minutes, {}
    with client:
        for name in itertools.cycle(all_attacks()):
            if time.monotonic() >= deadline:
                break
            seen = len(client.record.seconds)
            took = run_attack(arguments.url, name)
            slowest = max(client.record.seconds[seen:], default=0.0)
            attacks[name] = max(attacks.get(name, 0.0), slowest)
            print(f"{name}: {took:.1f} s, slowest other request {slowest * 1e3:.0f} ms", flush=True)
    record = client.record
    ratio = record.p99_ms() / normal.p99_ms()
    print(json.dumps({
        "requests": len(record.seconds), "wrong": len(record.wrong), "failed": len(record.failed), "refused": record.refused,
        "p99_ms": round(record.p99_ms(), 1), "normal_p99_ms": round(normal.p99_ms(), 1), "ratio": round(ratio, 2),
        "slowest_ms": {name: round(seconds * 1e3) for name, seconds in attacks.items()},
        "examples": record.failed[:3] + record.wrong[:3],
    }, indent=1))
    return 0 if not record.wrong and not record.failed and ratio <= MAX_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
