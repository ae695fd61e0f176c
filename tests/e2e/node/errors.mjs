// Every failure is the class that it should be.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { ask, calls, client, refused, text } from './harness.mjs';

const openai = client();

async function bothWays(prompt, kind, look) {
  const ways = [false, true].map(async (stream) => {
    const asking = openai.chat.completions.create(ask(`${prompt} #node`, { stream }));
    look(await refused(kind, asking));
  });
  await Promise.all(ways);
}

const passedOn = [
  ['error 404', OpenAI.NotFoundError, 404, 'model', 'model_not_found', 'No model `nope`.'],
  ['error 413', OpenAI.APIError, 413, null, 'request_too_large', 'That is too large.'],
  ['error 422', OpenAI.UnprocessableEntityError, 422, 'messages', 'senseless', 'That makes no sense.'],
];

const serverErrors = [
  ['error 401', 502, 'upstream_auth_failed', 'never'],
  ['error 403', 502, 'upstream_auth_failed', 'never'],
  ['error 429', 503, 'upstream_rate_limited', '7'],
  ['error 429 quota', 503, 'upstream_quota_exhausted', 'never'],
  ['error 500', 502, 'upstream_error', null],
  ['error 502', 502, 'upstream_error', null],
  ['error 503', 503, 'upstream_error', '3'],
  ['answers a page', 502, 'upstream_invalid_response', 'never'],
  ['hangs up', 502, 'upstream_unreachable', 'never'],
];

const broken = [
  ['error event', 'upstream_error'],
  ['ends early', 'upstream_truncated'],
  ['breaks off', 'upstream_disconnected'],
];

const checks = {
  async 'a key in the provider’s words is masked'() {
    await bothWays('error 400', OpenAI.BadRequestError, (error) => {
      assert.equal(error.param, 'temperature');
      assert.equal(error.code, 'unsupported_value');
      assert.match(error.error.message, /^Unsupported value for .*: 'temperature' is 9\.$/);
      assert.doesNotMatch(error.message, /Abcdefghijklmnop0123456789/);
    });
  },

  async 'an error of the provider gets the form that clients expect'() {
    const shapes = { 'error 400 number': 'Wrong.', 'error 400 bare': 'Only a message.' };
    for (const [prompt, message] of Object.entries(shapes)) {
      await bothWays(prompt, OpenAI.BadRequestError, (error) => {
        assert.equal(error.error.message, message);
      });
    }
  },

  async 'a route that is not there is not found'() {
    const asking = openai.embeddings.create({ model: 'any', input: 'nothing' });
    const error = await refused(OpenAI.NotFoundError, asking);
    assert.equal(error.code, 'not_found');
  },

  async 'a key for idempotency that is too long is refused'() {
    const headers = { 'Idempotency-Key': 'k'.repeat(256) };
    const asking = openai.chat.completions.create(ask('node own 400'), { headers });
    await refused(OpenAI.BadRequestError, asking);
    assert.deepEqual(await calls('node own 400'), []);
  },
};

for (const [prompt, kind, status, param, code, message] of passedOn) {
  checks[`a provider’s ${status} is passed on`] = () =>
    bothWays(prompt, kind, (error) => {
      assert.deepEqual([error.status, error.param, error.code], [status, param, code]);
      assert.equal(error.error.message, message);
      assert.equal(error.type, 'invalid_request_error');
    });
}

for (const [prompt, status, code, advice] of serverErrors) {
  checks[`${prompt}: a server error ${code}`] = () =>
    bothWays(prompt, OpenAI.InternalServerError, (error) => {
      assert.deepEqual([error.status, error.code, error.param], [status, code, null]);
      assert.equal(error.type, 'server_error');
      assert.doesNotMatch(JSON.stringify(error.error), /canary/);
      const never = advice === 'never';
      assert.equal(error.headers.get('x-should-retry'), never ? 'false' : null);
      assert.equal(error.headers.get('retry-after'), never ? null : advice);
    });
}

for (const [prompt, code] of broken) {
  checks[`${prompt}: the stream throws instead of ending quietly`] = async () => {
    const asking = openai.chat.completions.create(ask(prompt, { stream: true }));
    const { data: stream, request_id } = await asking.withResponse();
    const chunks = [];
    const collecting = (async () => {
      for await (const chunk of stream) chunks.push(chunk);
    })();
    const error = await refused(OpenAI.APIError, collecting);
    assert.equal(error.status, undefined);
    assert.equal(error.code, code);
    assert.equal(error.requestID, request_id);
    assert.doesNotMatch(JSON.stringify(error.error), /canary/);
    const whole = `echo: ${prompt}`;
    assert.equal(text(chunks), whole.slice(0, Math.floor(whole.length / 2)));
  };

  checks[`${prompt}: the stream never says that it is done`] = async () => {
    const asking = openai.chat.completions.create(ask(prompt, { stream: true }));
    const body = await (await asking.asResponse()).text();
    assert.match(body, /\n\ndata: \{"error":.*\}\n\n$/);
    assert.doesNotMatch(body, /\[DONE\]/);
  };
}

export default checks;
