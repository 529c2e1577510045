"""Cache hits: local and in Redis, over every transport, beside naive routes and Triton's response cache."""

from __future__ import annotations

from ..limits import Limit
from ..load import at_each, measure
from ..paths import Effort
from ..processes import NotStarted, Redis, Stack, running
from ..triton import Triton


def run(effort: Effort) -> dict:
    redis = Redis()
    constant, moka = Limit("constant"), Limit("moka")
    naive_redis = Limit("redis", redis.url)
    triton = Triton(cache=True)
    with running(redis, constant, moka, naive_redis, triton):
        for process in (redis, constant, moka, naive_redis):
            process.start()
        why_not = start_or_reason(triton)
        # The second stack caches only in Redis.
        silent = {"LOG_LEVEL": "warn"}
        with (
            Stack() as ours,
            Stack(web={"REDIS_URL": redis.url, "NEAR_CACHE_BYTES": 0}) as far,
            Stack(web=silent) as unlogged,
        ):
            all_counts, most = effort.connections, effort.connections[-1:]
            rows = [
                *at_each(all_counts, "limit: constant answer", constant.address),
                *at_each(all_counts, "limit: SHA-256 and moka", moka.address),
                *at_each(all_counts, "limit: SHA-256 and Redis", naive_redis.address),
                *at_each(all_counts, "ours: local hit, image", ours.address),
                *at_each(most, "ours: local hit, image, no access log", unlogged.address),
                *at_each(most, "ours: local hit, V2 JSON", ours.address, format="json"),
                *at_each(most, "ours: local hit, V2 binary", ours.address, format="binary"),
                *at_each(most, "ours: local hit, gRPC", ours.address, format="grpc"),
                *at_each(most, "ours: local hit, the first MLServe's body", ours.address, format="array"),
                *at_each(all_counts, "ours: Redis hit, image", far.address),
            ]
            if not why_not:
                rows += [
                    *at_each(most, "Triton's response cache, V2 JSON", triton.address, format="json"),
                    *at_each(most, "Triton's response cache, V2 binary", triton.address, format="binary"),
                    *at_each(most, "Triton's response cache, gRPC", triton.grpc_address, format="grpc"),
                ]
            return {"rows": measure(rows, effort), "not measured": {"Triton": why_not} if why_not else {}}


def start_or_reason(peer: object) -> str | None:
    """Starts the peer; returns the reason if that fails."""
    try:
        peer.start()
    except (NotStarted, OSError) as error:
        peer.stop()
        return str(error)
    return None
