# shellcheck shell=bash
# Settings: the user's, from the environment and .env, and those of the running stack, which start_all.sh writes into .env for
# Docker Compose. Sourced by lib.sh.
# shellcheck disable=SC2154  # root comes from lib.sh

# start_all.sh writes the lines of .env between these two. A plain `docker compose` in this folder then uses the settings with
# which the stack was started, and not the defaults.
stack_begin='# >>> start_all.sh: the stack as it was started last, for Docker Compose. Written anew at each start.'
stack_end='# <<< start_all.sh'

# The lines of .env that are the user's.
own_settings() {
  [[ ! -r $root/.env ]] ||
    awk '/^# >>> start_all\.sh/ { skip = 1 } !skip { print } /^# <<< start_all\.sh/ { skip = 0 }' "$root/.env"
}

# The lines of .env that start_all.sh wrote.
stack_settings() { [[ ! -r $root/.env ]] || sed -n '/^# >>> start_all\.sh/,/^# <<< start_all\.sh/p' "$root/.env"; }

# setting NAME DEFAULT: from the environment, else from .env, else the default. An empty value counts as unset.
setting() {
  local value=${!1:-}
  [[ -n $value ]] || value=$(own_settings | sed -n "s/^$1=//p" | tail -n 1)
  say "${value:-$2}"
}

# The variables that docker-compose.yml uses, one a line.
compose_variables() { grep -ohE '\$\{[A-Z_]+' "$root"/docker-compose*.yml | sed 's|^..||' | sort -u; }

# quote VALUE: quoted for .env, as Compose parses it.
quote() {
  local value=$1
  if [[ $value =~ ^[A-Za-z0-9_./:,@%+=-]*$ ]]; then say "$value" && return; fi
  value=${value//\\/\\\\}
  value=${value//\"/\\\"}
  say "\"${value//\$/\\\$}\""
}

# replace_stack_settings: writes standard input to .env in place of the lines of the last start.
replace_stack_settings() {
  local lines
  lines=$(cat)
  (
    umask 077
    own_settings
    printf '%s\n' "$stack_begin" "$lines" "$stack_end"
  ) >"$root/.env.new"
  chmod 600 "$root/.env.new"
  mv -f "$root/.env.new" "$root/.env"
}

# record_stack FILES: records the value of each variable of docker-compose.yml, and the FILES of Compose (NAME:NAME).
record_stack() {
  local name
  {
    say "COMPOSE_PROJECT_NAME=$(project)"
    say "COMPOSE_FILE=$1"
    while IFS= read -r name; do
      # Labels of a build are not settings of the stack.
      [[ $name == *_SOURCES || -z ${!name:-} ]] || say "$name=$(quote "${!name}")"
    done < <(compose_variables)
  } | replace_stack_settings
}

# change_stack NAME VALUE: changes one recorded setting.
change_stack() {
  local lines
  lines=$(stack_settings | grep -v -e '^#' -e "^$1=" || true)
  say "$lines"$'\n'"$1=$2" | replace_stack_settings
}
