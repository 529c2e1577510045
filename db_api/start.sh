#!/bin/sh
# Starts Redis with its one user, whose password comes as REDIS_PASSWORD.
#
# Redis reads no password from the environment, and its command line is for everybody on the machine to see. So the user
# goes in on standard input, which Redis reads like a piece of redis.conf, and only as a hash.
set -eu

: "${REDIS_PASSWORD:?is not set: start_all.sh writes one to .env}"
hash=$(printf %s "$REDIS_PASSWORD" | sha256sum | cut -d ' ' -f 1)
unset REDIS_PASSWORD

# What the services may do: read, write and publish what is theirs. Not @dangerous and @admin (FLUSHALL, KEYS, CONFIG,
# SHUTDOWN, …), even where another category would grant it: the last words win. What jobs need beyond that is named one by
# one: their functions, and in those the time and how full Redis is.
#
# Nobody can be the default user, who is off. But Redis reads its own log back as that user, and a transaction there (all that a
# function does is one) is held against his rights: without them what functions did would be gone after a restart.
exec redis-server /usr/local/etc/redis.conf - <<CONF
user default off ~* &* +@all
user mlserve on #$hash resetkeys ~mlserve:* resetchannels &mlserve:* -@all +@connection +@read +@write +@pubsub -@dangerous -@admin -function +function|load +fcall +info +time
CONF
