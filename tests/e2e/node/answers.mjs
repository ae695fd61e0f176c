// What is asked and answered reaches its end, whole and streamed.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, all, ask, calls, client, refused, text } from './harness.mjs';

const openai = client();
const MADE_UP = { price: 2.5, deep: [100, null, 'é'] };
const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const PERSON = {
  type: 'json_schema',
  json_schema: {
    name: 'person',
    strict: true,
    schema: {
      type: 'object',
      properties: { name: { type: 'string' }, born: { type: 'integer' } },
      required: ['name', 'born'],
      additionalProperties: false,
    },
  },
};
const WEATHER = {
  type: 'function',
  function: {
    name: 'weather',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
};
const TOOL_CALLS = [
  { id: 'call_0', name: 'weather', arguments: '{"city": "Paris"}' },
  { id: 'call_1', name: 'weather', arguments: '{"city": "São Paulo"}' },
];

function toolCalls(message) {
  return message.tool_calls.map(({ id, function: { name, arguments: given } }) => {
    return { id, name, arguments: given };
  });
}

export default {
  async 'a completion is the provider’s own'() {
    const said = await openai.chat.completions.create(ask('node plain', { logprobs: true }));
    assert.equal(said.id, 'chatcmpl-sdk');
    assert.equal(said.object, 'chat.completion');
    assert.equal(said.created, 1790000000);
    assert.equal(said.choices[0].message.content, 'echo: node plain');
    assert.equal(said.choices[0].finish_reason, 'stop');
    assert.equal(said.usage.total_tokens, 13);
    assert.equal(said.usage.completion_tokens_details.reasoning_tokens, 2);
    assert.equal(said.choices[0].message.reasoning_content, 'It wants an echo.');
    assert.equal(said.choices[0].logprobs.content[0].logprob, -0.25);
    assert.deepEqual(said.made_up, MADE_UP);
  },

  async 'a stream has no usage unless it was asked for'() {
    for (const [number, options] of [{}, { stream_options: { include_usage: false } }].entries()) {
      const prompt = `node streamed #${number}`;
      const stream = await openai.chat.completions.create(ask(prompt, { stream: true, ...options }));
      const chunks = await all(stream);
      assert.equal(text(chunks), `echo: ${prompt}`);
      assert.equal(chunks[0].choices[0].delta.role, 'assistant');
      assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
      assert.deepEqual(chunks.map((chunk) => chunk.choices.length), [1, 1, 1, 1, 1]);
      assert.ok(chunks.every((chunk) => !('usage' in chunk)));
      assert.deepEqual(chunks.map((chunk) => chunk.made_up), Array(5).fill(MADE_UP));
      // The provider was asked for usage, since chatport wants to know it, and has sent it.
      const [call] = await calls(prompt);
      assert.equal(call.body.stream_options.include_usage, true);
    }
  },

  async 'a stream ends with the usage that was asked for'() {
    const options = { stream: true, stream_options: { include_usage: true } };
    for (const prompt of ['node usage wanted', 'terse node']) {
      const chunks = await all(await openai.chat.completions.create(ask(prompt, options)));
      assert.deepEqual(chunks.map((chunk) => chunk.choices.length), [1, 1, 1, 1, 1, 0]);
      assert.deepEqual(chunks.map((chunk) => chunk.usage).slice(0, -1), Array(5).fill(null));
      assert.equal(chunks.at(-1).usage.total_tokens, 13);
      assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    }
  },

  async 'tools are called and their results sent back'() {
    const messages = [{ role: 'user', content: 'node tools' }];
    const asking = { model: MODEL, tools: [WEATHER] };
    const first = await openai.chat.completions.create({ ...asking, messages });
    assert.equal(first.choices[0].finish_reason, 'tool_calls');
    assert.deepEqual(toolCalls(first.choices[0].message), TOOL_CALLS);
    const result = { role: 'tool', tool_call_id: 'call_0', content: '21 °C' };
    messages.push(first.choices[0].message, result);
    const second = await openai.chat.completions.create({ ...asking, messages });
    assert.equal(second.choices[0].message.content, 'The tool said 21 °C.');
    const [, call] = await calls('node tools');
    assert.deepEqual(call.body.tools, [WEATHER]);
    assert.deepEqual(call.body.messages[2], result);
  },

  async 'the SDK puts streamed tool calls together'() {
    const stream = openai.chat.completions.stream(ask('node streamed tools', { tools: [WEATHER] }));
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, 'tool_calls');
    assert.deepEqual(toolCalls(final.choices[0].message), TOOL_CALLS);
  },

  async 'the SDK runs tools by itself'() {
    const weather = { ...WEATHER.function, function: () => '20 °C', parse: JSON.parse };
    const runner = openai.chat.completions.runTools(
      ask('node runs tools', { tools: [{ type: 'function', function: weather }] }),
    );
    assert.equal(await runner.finalContent(), 'The tool said 20 °C.');
  },

  async 'answers are parsed by a schema'() {
    const said = await openai.chat.completions.parse(ask('node schema', { response_format: PERSON }));
    assert.deepEqual(said.choices[0].message.parsed, { name: 'Ada', born: 1815 });
    const [call] = await calls('node schema');
    assert.deepEqual(call.body.response_format, PERSON);
  },

  async 'what chatport does not know reaches the provider'() {
    const content = [
      { type: 'text', text: 'node image' },
      { type: 'image_url', image_url: { url: PIXEL } },
    ];
    const body = {
      model: MODEL,
      messages: [{ role: 'user', content }],
      max_tokens: 7,
      max_completion_tokens: 8,
      of_tomorrow: { deep: [null, true, 2.5, 'é', '😀'] },
    };
    await openai.chat.completions.create(body);
    const [call] = await calls('node image');
    assert.deepEqual(call.body, body);
    assert.equal(call.headers.authorization, 'Bearer sk-canary-key');
    assert.ok(!call.raw.includes('sk-of-the-caller'));
  },

  async 'the user’s own name stays here'() {
    await openai.chat.completions.create(ask('node user', { user: 'ada.lovelace' }));
    const [call] = await calls('node user');
    assert.ok(!call.raw.includes('ada.lovelace'));
    assert.match(call.body.safety_identifier ?? call.body.user, /^.{16,64}$/);
  },

  async 'a response has its headers and its request id'() {
    const asking = () => openai.chat.completions.create(ask('node raw'));
    const { data, response, request_id } = await asking().withResponse();
    assert.equal(data.choices[0].message.content, 'echo: node raw');
    assert.equal(response.headers.get('content-type'), 'application/json');
    assert.equal(response.headers.get('cache-control'), 'no-store');
    assert.ok(request_id);
    assert.notEqual(request_id, 'req_upstream');
    assert.equal(response.headers.get('x-request-id'), request_id);
    assert.equal(data._request_id, request_id);
    const raw = await asking().asResponse();
    assert.equal(raw.status, 200);
    assert.notEqual(raw.headers.get('x-request-id'), request_id);
    assert.ok((await raw.text()).includes('"made_up": {"price": 2.50, "deep": [1e2, null, "\\u00e9"]}'));
  },

  async 'a stream has its headers and its request id'() {
    const asking = () => openai.chat.completions.create(ask('node raw', { stream: true }));
    const { data, response, request_id } = await asking().withResponse();
    assert.equal(text(await all(data)), 'echo: node raw');
    assert.match(response.headers.get('content-type'), /^text\/event-stream/);
    assert.equal(response.headers.get('x-accel-buffering'), 'no');
    assert.ok(request_id);
    assert.notEqual(request_id, 'req_upstream');
    const raw = await (await asking().asResponse()).text();
    assert.ok(raw.endsWith('data: [DONE]\n\n'));
    assert.ok(!/^(id|event|retry):/m.test(raw));
  },

  async 'models are listed and found'() {
    const models = await all(await openai.models.list());
    const model = models.find(({ id }) => id === 'vendor/echo-1');
    assert.equal(model.object, 'model');
    assert.equal(typeof model.created, 'number');
    assert.equal(typeof model.owned_by, 'string');
    const { _request_id, ...found } = await openai.models.retrieve('vendor/echo-1');
    assert.deepEqual(found, model);
    const error = await refused(OpenAI.NotFoundError, openai.models.retrieve('vendor/nope'));
    assert.equal(error.code, 'model_not_found');
    assert.equal(error.type, 'invalid_request_error');
  },

  async 'twenty calls at once each get their own answer'() {
    const call = async (number) => {
      const asking = ask(`node nonce ${number}`, { stream: number % 2 === 0 });
      const said = await openai.chat.completions.create(asking);
      return asking.stream ? text(await all(said)) : said.choices[0].message.content;
    };
    const numbers = [...Array(20).keys()];
    const answers = await Promise.all(numbers.map(call));
    assert.deepEqual(answers, numbers.map((number) => `echo: node nonce ${number}`));
  },
};
