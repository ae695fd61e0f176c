// What the checks share: the SDK's client, and the memory of the provider.

import assert from 'node:assert/strict';
import OpenAI from 'openai';

const PROVIDER = process.env.PROVIDER_URL;

export const MODEL = 'vendor/echo-1';

export function client(options = {}) {
  const baseURL = process.env.CHATPORT_URL;
  return new OpenAI({ apiKey: 'sk-of-the-caller', baseURL, maxRetries: 0, ...options });
}

// A client of the service that bears little silence and allows one request an hour.
export function strictClient(options = {}) {
  return client({ baseURL: process.env.STRICT_URL, ...options });
}

export function ask(prompt, options = {}) {
  return { model: MODEL, messages: [{ role: 'user', content: prompt }], ...options };
}

export async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

export function text(chunks) {
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
}

// Ask what fails, and return the error, which is of just this class and has a request id.
export async function refused(kind, asking) {
  const error = await asking.then(() => assert.fail('nothing was thrown'), (error) => error);
  assert.equal(error.constructor, kind, String(error.stack));
  assert.equal(typeof error.requestID, 'string');
  assert.equal(error.requestID, error.headers.get('x-request-id'));
  for (const key of ['message', 'type', 'param', 'code']) assert.ok(key in error.error, key);
  assert.equal(typeof error.type, 'string');
  for (const value of [error.param, error.code]) {
    assert.ok(value === null || typeof value === 'string', `${value} is no string`);
  }
  return error;
}

// The calls of the provider with this prompt, once there are so many.
export async function calls(prompt, atLeast = 0) {
  return control('GET', 'calls', { prompt, at_least: atLeast });
}

// Whether chatport has ended the provider's last call with this prompt, within so many seconds.
export async function left(prompt, within) {
  return control('GET', 'left', { prompt, within });
}

// Let the provider go on with this prompt.
export async function open(prompt) {
  return control('POST', 'open', { prompt });
}

async function control(method, name, query) {
  const url = `${PROVIDER}/control/${name}?${new URLSearchParams(query)}`;
  const response = await fetch(url, { method });
  assert.ok(response.ok, `${name}: ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}
