// Vercel's AI SDK, unmodified, in an environment of its own: what it must be able to do with a served app.
// Prints a JSON object as checks.py does.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const { BASE_URL: baseURL, API_KEY, SPENT_KEY } = process.env;
const HELLO = "Hello from the test model.";
const once = { maxRetries: 0 };

const byOpenAI = (interfaceName) => (name = "chat", apiKey = API_KEY) =>
  createOpenAI({ baseURL, apiKey })[interfaceName](name);
const compatible = (apiKey = API_KEY) =>
  createOpenAICompatible({ name: "app", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true });
const byCompatible = (name = "chat", apiKey = API_KEY) => compatible(apiKey).chatModel(name);

const tools = {
  get_weather: tool({
    description: "Look it up.",
    inputSchema: z.object({ city: z.string() }),
    execute: async () => "7 degrees",
  }),
  get_time: tool({ description: "Look it up.", inputSchema: z.object({ zone: z.string() }), execute: async () => "noon" }),
};

const raises = async (status, call) => {
  try {
    await call();
  } catch (error) {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, status);
    return;
  }
  assert.fail(`no error ${status}`);
};

const partsOf = async (settings) => {
  const parts = [];
  for await (const part of streamText({ ...once, onError: () => {}, ...settings }).fullStream) parts.push(part);
  return parts;
};
const textOf = (parts) =>
  parts.filter((part) => part.type === "text-delta").map((part) => part.text).join("").trim();

const checksBy = (model) => ({
  reply: async () => {
    const { text, usage, finishReason } = await generateText({ ...once, model: model(), prompt: "hello" });
    assert.deepEqual([text, usage.totalTokens, finishReason], [HELLO, 18, "stop"]);
  },
  "stream with usage": async () => {
    const parts = await partsOf({ model: model(), prompt: "hello" });
    assert.equal(parts.filter((part) => part.type === "text-delta").length, 5);
    assert.deepEqual([textOf(parts), parts.at(-1).totalUsage.totalTokens], [HELLO, 18]);
  },
  "tools in fragments": async () => {
    const parts = await partsOf({ model: model(), prompt: "weather", tools, stopWhen: isStepCount(3) });
    const calls = parts.filter((part) => part.type === "tool-call").map((part) => [part.toolName, part.input]);
    assert.deepEqual(calls, [
      ["get_weather", { city: "Oslo" }],
      ["get_time", { zone: "CET" }],
    ]);
    assert.ok(parts.filter((part) => part.type === "tool-input-delta").length > 2);
    assert.equal(textOf(parts), "It is 7 degrees.");
  },
  "JSON schema": async () => {
    const output = Output.object({ schema: z.object({ name: z.string(), age: z.number() }) });
    const { output: person } = await generateText({ ...once, model: model(), prompt: "person", output });
    assert.deepEqual(person, { name: "Ada", age: 36 });
  },
  citations: async () => {
    const prompt = "What does k1 do in BM25?";
    const { text, response } = await generateText({
      ...once,
      model: model("documents"),
      prompt,
      include: { responseBody: true },
    });
    assert.match(text, /\[1\]/);
    const said = response.body.choices?.[0].message ?? response.body.output[0];
    assert.match(said.citations[0].quote, /Lucene defaults to k1/);
  },
  401: () => raises(401, () => generateText({ ...once, model: model("chat", "aiapp_0.wrong"), prompt: "hello" })),
  404: () => raises(404, () => generateText({ ...once, model: model("gpt-4o"), prompt: "hello" })),
  429: () =>
    raises(429, async () => {
      for (const _ of [1, 2]) await generateText({ ...once, model: model("chat", SPENT_KEY), prompt: "expensive" });
    }),
  "5xx": () => raises(503, () => generateText({ ...once, model: model(), prompt: "unavailable" })),
  "error in mid-stream": async () => {
    const parts = await partsOf({ model: model(), prompt: "cut" });
    assert.ok(parts.some((part) => part.type === "error"));
    await assert.rejects(async () => {
      const result = streamText({ ...once, onError: () => {}, model: model(), prompt: "cut", output: Output.json() });
      await result.output;
    });
  },
  "cancel stops the upstream": async () => {
    const leaving = new AbortController();
    const { fullStream } = streamText({ ...once, model: model(), prompt: "stall", abortSignal: leaving.signal });
    for await (const part of fullStream) if (part.type === "text-delta") leaving.abort();
  },
});

const embeddingsBy = (model) => async () => {
  const { embeddings, usage } = await embedMany({ ...once, model, values: ["one", "two"] });
  assert.deepEqual([embeddings.length, usage.tokens > 0], [2, true]);
  assert.ok(embeddings[0].length > 100);
};

const embedder = createOpenAI({ baseURL, apiKey: API_KEY }).embedding("embedding");
const columns = {
  chat: { embeddings: embeddingsBy(embedder), ...checksBy(byOpenAI("chat")) },
  responses: { embeddings: embeddingsBy(embedder), ...checksBy(byOpenAI("responses")) },
  compatible: { embeddings: embeddingsBy(compatible().embeddingModel("embedding")), ...checksBy(byCompatible) },
};

const results = {};
for (const [column, checks] of Object.entries(columns)) {
  results[column] = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      results[column][name] = "";
    } catch (error) {
      console.error(column, name, error);
      results[column][name] = String(error).slice(0, 300);
    }
  }
}
const { version } = JSON.parse(readFileSync("node_modules/ai/package.json", "utf8"));
console.log(JSON.stringify({ client: `ai ${version}`, results }));
