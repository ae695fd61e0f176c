// Clients that leave. Each check returns the request id of the exchange that this cancels.

import assert from 'node:assert/strict';
import { ask, calls, client, left } from './harness.mjs';

const openai = client();
// While the provider is silent, chatport looks every 5 s whether its client is still there.
const LEAVING_SECONDS = 7;

async function leave(prompt, leaving) {
  const controller = new AbortController();
  const asking = openai.chat.completions.create(ask(prompt, { stream: true }), {
    signal: controller.signal,
  });
  const { data: stream, request_id } = await asking.withResponse();
  for await (const chunk of stream) {
    assert.equal(chunk.choices.length, 1);
    if (leaving(controller)) break;
  }
  assert.equal(await left(prompt, LEAVING_SECONDS), true);
  assert.equal((await calls(prompt)).length, 1);
  return request_id;
}

const breaks = () => true;
const aborts = (controller) => controller.abort();

export default {
  'breaking out of a stream that talks': () => leave('talks for ever #break', breaks),
  'breaking out of a stream that is silent': () => leave('falls silent #break', breaks),
  'aborting a stream that talks': () => leave('talks for ever #abort', aborts),
  'aborting a stream that is silent': () => leave('falls silent #abort', aborts),
};
