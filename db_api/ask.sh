#!/bin/sh
# Runs redis-cli as the services' user, inside the container: `ask --scan`, `ask GET mlserve:answer:…`. The password is passed in
# the environment, never on the command line.
set -eu
REDISCLI_AUTH=$REDIS_PASSWORD exec redis-cli --user mlserve "$@"
