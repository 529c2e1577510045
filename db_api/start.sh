#!/bin/sh
# Starts Redis with its one user, whose password is in REDIS_PASSWORD.
#
# Redis reads no password from the environment, and its command line is visible to all users of the machine. The user is therefore
# passed on standard input, which Redis reads like a part of redis.conf, and only as a hash.
set -eu

: "${REDIS_PASSWORD:?is not set: start_all.sh writes one to .env}"
hash=$(printf %s "$REDIS_PASSWORD" | sha256sum | cut -d ' ' -f 1)
unset REDIS_PASSWORD

# The services' user may read, write and publish its own keys and channels. It has neither @dangerous nor @admin (FLUSHALL, KEYS,
# CONFIG, SHUTDOWN, …), even where another category would grant them: the last rule wins. The other commands that jobs need are
# listed one by one: their functions, and inside those the time and the memory usage.
#
# The default user is off, so no client can use it. Redis replays its own log as that user, though, and checks a transaction,
# which is what a function call is, against that user's rights. Without these rights, the effects of functions would be lost after
# a restart.
exec redis-server /usr/local/etc/redis.conf - <<CONF
user default off ~* &* +@all
user mlserve on #$hash resetkeys ~mlserve:* resetchannels &mlserve:* -@all +@connection +@read +@write +@pubsub -@dangerous -@admin -function +function|load +fcall +info +time
CONF
