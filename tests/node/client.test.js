// OpenAI's own client for Node against a real server; check.py takes the expected values from the engine.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import OpenAI from "openai";

const { url, texts, documents, shorter, query, tokens } = JSON.parse(readFileSync(process.env.EXPECTED, "utf8"));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

function assertSame(found, wanted) {
  assert.equal(found.length, wanted.length);
  found.forEach((row, place) => {
    assert.equal(row.length, wanted[place].length);
    row.forEach((value, column) => assert.ok(Math.abs(value - wanted[place][column]) < 1e-5, `${value}`));
  });
}

const rows = (answer) => answer.data.map((item) => item.embedding);

test("without a format it asks for base64 and decodes it", async () => {
  const answer = await client.embeddings.create({ model: "nano", input: texts });
  assertSame(rows(answer), documents);
  assert.deepEqual(answer.data.map((item) => item.index), [0, 1, 2]);
  assert.equal(answer.model, "nano");
  assert.deepEqual(answer.usage, { prompt_tokens: tokens, total_tokens: tokens });
});

test("numbers, with fewer dimensions", async () => {
  const answer = await client.embeddings.create({ model: "nano", input: texts, encoding_format: "float", dimensions: 64 });
  assertSame(rows(answer), shorter);
});

test("base64", async () => {
  const answer = await client.embeddings.create({ model: "nano", input: texts[0], encoding_format: "base64" });
  const bytes = Buffer.from(answer.data[0].embedding, "base64");
  const vector = Array.from({ length: bytes.length / 4 }, (_, place) => bytes.readFloatLE(4 * place));
  assertSame([vector], documents.slice(0, 1));
});

test("a query by the model's name, with an instruction", async () => {
  const answer = await client.embeddings.create({ model: "nano:query", input: texts[0], instruction: "Find it" });
  assertSame(rows(answer), [query]);
});

test("reduced precision", async () => {
  const answer = await client.embeddings.create({ model: "nano", input: texts[0], precision: "binary" });
  assert.equal(answer.data[0].embedding.length, 48);
  assert.ok(answer.data[0].embedding.every((value) => Number.isInteger(value) && value >= -128 && value < 128));
});

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("nano"));
});

test("token ids are refused with the remedy", async () => {
  await assert.rejects(client.embeddings.create({ model: "nano", input: [[1, 2]] }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.status, error.code, error.param], [400, "token_ids_refused", "input"]);
    assert.match(error.message, /check_embedding_ctx_length=False/);
    return true;
  });
});

test("a model that is not served is refused", async () => {
  await assert.rejects(client.embeddings.create({ model: "text-embedding-3-small", input: "a" }), OpenAI.NotFoundError);
});
