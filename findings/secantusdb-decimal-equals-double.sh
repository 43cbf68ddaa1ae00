#!/usr/bin/env bash
# SecantusDB 0.7.0b3: find and a unique index hold the decimal 9.99 and the double 9.99 for equal, $expr and $group hold them for two values.
#
# MongoDB compares numbers of different types by their exact value. No double is exactly 9.99, so a decimal 9.99 and a double 9.99 differ;
# its manual has this very case: find by the double gives one document, find by the decimal the other. SecantusDB, which answers buildInfo
# as MongoDB 8.2.11, compares the shortest decimal writing of the double (9.99) in queries, index keys and sort keys, and the exact value in
# aggregation expressions and in the key of $group. So one server gives two answers to one question: amounts written by a client that sends
# doubles are found, updated and refused as duplicates together with decimals here, and not in MongoDB, while a report over the same
# collection keeps them apart. Whole numbers, and fractions a double holds exactly (9.5), are equal everywhere. SecantusDB's page on
# compatibility says that numeric types of an _id collide on equal value and nothing of this.
#
# Seen: find by either 9.99 gives both documents, find with $expr one, and $group counts two values; a query by the decimal updates both; a
# unique index over both is refused (11000), and so is the insert of the double beside the decimal.
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
from bson.decimal128 import Decimal128
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure

failed = 0


def expect(what, expected, seen):
    global failed
    if expected == seen:
        print(f"as described: {what}: {seen}")
    else:
        print(f"CHANGED: {what}: expected {expected}, saw {seen}")
        failed = 1


client = MongoClient("127.0.0.1", int(sys.argv[1]), serverSelectionTimeoutMS=10000)
prices = client.shop.prices
decimal, double = Decimal128("9.99"), 9.99
prices.insert_many([{"_id": "decimal", "amount": decimal}, {"_id": "double", "amount": double}])


def found(query):
    return sorted(price["_id"] for price in prices.find(query))


both = ["decimal", "double"]
expect("version", "0.7.0b3", version("SecantusDB"))
expect("it answers as MongoDB", "8.2.11", client.server_info()["version"])
# Equal: queries and indexes.
expect("find by the decimal", both, found({"amount": decimal}))
expect("find by the double", both, found({"amount": double}))
expect("find above the decimal", [], found({"amount": {"$gt": decimal}}))
expect("documents updated by the decimal", 2, prices.update_many({"amount": decimal}, {"$set": {"seen": True}}).modified_count)
try:
    prices.create_index("amount", unique=True)
    built = "built"
except OperationFailure as error:
    built = error.code
expect("unique index over both", 11000, built)
# Two values: expressions.
expect("$expr equal to the decimal", ["decimal"], found({"$expr": {"$eq": ["$amount", decimal]}}))
expect("$expr equal to the double", ["double"], found({"$expr": {"$eq": ["$amount", double]}}))
expect("$expr above the decimal", ["double"], found({"$expr": {"$gt": ["$amount", decimal]}}))
groups = list(prices.aggregate([{"$group": {"_id": "$amount", "count": {"$sum": 1}}}]))
expect("$group by amount, counts", [1, 1], [group["count"] for group in groups])
# A collection that has the index from the start.
unique = client.shop.unique
unique.create_index("amount", unique=True)
unique.insert_one({"amount": decimal})
try:
    unique.insert_one({"amount": double})
    inserted = "inserted"
except DuplicateKeyError as error:
    inserted = error.code
expect("insert of the double beside the decimal", 11000, inserted)
# What a double holds exactly is equal in both.
half = client.shop.half
half.insert_many([{"_id": "decimal", "amount": Decimal128("9.5")}, {"_id": "double", "amount": 9.5}])
expect("9.5: found", 2, len(list(half.find({"amount": 9.5}))))
expect("9.5: found by $expr", 2, len(list(half.find({"$expr": {"$eq": ["$amount", 9.5]}}))))
halves = list(half.aggregate([{"$group": {"_id": "$amount", "count": {"$sum": 1}}}]))
expect("9.5: $group by amount, counts", [2], [group["count"] for group in halves])
sys.exit(failed)
PY
