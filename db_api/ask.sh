#!/bin/sh
# redis-cli as the services' own user, inside the container: ask --scan, ask GET mlserve:answer:…
# The password goes by the environment, never by the command line.
set -eu
REDISCLI_AUTH=$REDIS_PASSWORD exec redis-cli --user mlserve "$@"
