// What the intake of social_webhook is measured beside: a receiver as one writes it with Express and pg. It verifies a delivery and stores
// it whole with one insert. ./spine bench starts it, and reads its port from standard output.

import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import express from "express";
import pg from "pg";

const { DATABASE_URL, META_APP_SECRET } = process.env;
const pool = new pg.Pool({ connectionString: DATABASE_URL });
// A name lets the server keep the plan.
const insert = { name: "insert", text: "insert into deliveries (id, raw, received_at) values ($1, $2, $3)" };

function isSigned(body, header = "") {
  const expected = Buffer.from(`sha256=${createHmac("sha256", META_APP_SECRET).update(body).digest("hex")}`);
  const given = Buffer.from(header);
  return given.length === expected.length && timingSafeEqual(given, expected);
}

const app = express();
app.post("/webhooks/meta", express.raw({ type: "*/*", limit: "5mb" }), async (request, response) => {
  if (!isSigned(request.body, request.get("x-hub-signature-256"))) {
    response.sendStatus(401);
    return;
  }
  await pool.query({ ...insert, values: [randomUUID(), request.body, new Date()] });
  response.sendStatus(200);
});
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
