#!/usr/bin/env bash
# SecantusDB 0.7.0b3: an aggregation path that passes through an array of documents is a missing field, so a $sum over order lines is 0.
#
# In MongoDB the expression "$lines.amount" collects the field of every element when `lines` is an array; its manual shows this under "Field
# Paths". SecantusDB, which answers buildInfo as MongoDB 8.2.11, walks such a path through documents only and stops at the array. Nothing is
# raised: $project leaves the field out, $sum adds up nothing and says 0, $push collects nothing, $lookup with such a localField joins nothing,
# and an update with a pipeline stores the 0.
# Its own query language does walk the array: find and a plain projection by "lines.sku" give what MongoDB gives, so a test that only finds
# sees no difference. SecantusDB's pages on compatibility and aggregation name no such limit. The same values come through $unwind or $map.
#
# Seen: find by "lines.sku" finds the order; {$project: {skus: "$lines.sku"}} gives the order without `skus`; {$sum: "$lines.amount"} gives 0
# where the lines add up to 350, also when a pipeline update stores it; 350 with $map inside the $sum, or with $unwind and $group.
# Packages: SecantusDB 0.7.0b3 (a server of its own process), pymongo 4.20.1. Exits 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
server=
trap 'stop; rm -rf "$work"' EXIT
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true; server=; }

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check SecantusDB==0.7.0b3 pymongo==4.20.1
: >"$work/empty.toml"
TMPDIR=$work "$work/venv/bin/secantusd-py" --config "$work/empty.toml" --standalone --storage-path :memory: --host 127.0.0.1 --port 0 >"$work/log" 2>&1 &
server=$!
port=
for _ in $(seq 300); do
    port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/log")
    [ -z "$port" ] || break
    kill -0 "$server" 2>/dev/null || { cat "$work/log"; exit 1; }
    sleep 0.1
done
[ -n "$port" ] || { cat "$work/log"; exit 1; }

"$work/venv/bin/python" - "$port" <<'PY'
import sys
from importlib.metadata import version
from pymongo import MongoClient

failed = 0


def expect(what, expected, seen):
    global failed
    if expected == seen:
        print(f"as described: {what}: {seen}")
    else:
        print(f"CHANGED: {what}: expected {expected}, saw {seen}")
        failed = 1


client = MongoClient("127.0.0.1", int(sys.argv[1]), serverSelectionTimeoutMS=10000)
orders, skus = client.shop.orders, client.shop.skus
lines = [{"sku": "a", "amount": 100}, {"sku": "b", "amount": 250}]
orders.insert_one({"_id": 1, "lines": lines})
skus.insert_many([{"_id": "a", "name": "Apple"}, {"_id": "b", "name": "Bean"}])


def stages(*pipeline):
    return list(orders.aggregate(list(pipeline)))


expect("version", "0.7.0b3", version("SecantusDB"))
expect("it answers as MongoDB", "8.2.11", client.server_info()["version"])
# The query language walks the array.
expect("find by lines.sku", [1], [order["_id"] for order in orders.find({"lines.sku": "b"})])
expect("find, projected to lines.sku", [{"_id": 1, "lines": [{"sku": "a"}, {"sku": "b"}]}], list(orders.find({}, {"lines.sku": 1})))
# The expression language does not.
expect("$project skus: $lines.sku", [{"_id": 1}], stages({"$project": {"skus": "$lines.sku"}}))
expect("$project total: $sum of $lines.amount", [{"_id": 1, "total": 0}], stages({"$project": {"total": {"$sum": "$lines.amount"}}}))
expect("$group, $push of $lines.sku", [{"_id": None, "skus": []}], stages({"$group": {"_id": None, "skus": {"$push": "$lines.sku"}}}))
joined = {"$lookup": {"from": "skus", "localField": "lines.sku", "foreignField": "_id", "as": "joined"}}
expect("$lookup by lines.sku", [{"_id": 1, "found": 0}], stages(joined, {"$project": {"found": {"$size": "$joined"}}}))
orders.update_one({"_id": 1}, [{"$set": {"total": {"$sum": "$lines.amount"}}}])
expect("total stored by a pipeline update", 0, orders.find_one({"_id": 1})["total"])
# The same asked another way.
amounts = {"$map": {"input": "$lines", "as": "line", "in": "$$line.amount"}}
expect("$sum of a $map", [{"_id": 1, "total": 350}], stages({"$project": {"total": {"$sum": amounts}}}))
grouped = {"$group": {"_id": "$_id", "total": {"$sum": "$lines.amount"}}}
expect("$unwind, then $group", [{"_id": 1, "total": 350}], stages({"$unwind": "$lines"}, grouped))
sys.exit(failed)
PY
