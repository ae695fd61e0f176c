// A service that bears 1.5 s of silence, and allows each user one request an hour.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { ask, calls, refused, strictClient } from './harness.mjs';

const openai = strictClient({ maxRetries: 2 });
const asking = (prompt, user, more) => openai.chat.completions.create(ask(prompt, { user, ...more }));

export default {
  async 'a user at the limit is held back and nobody else'() {
    await asking('node limited #1', 'ada');
    // The SDK does not wait for so long; it throws at once.
    const error = await refused(OpenAI.RateLimitError, asking('node limited #2', 'ada'));
    assert.deepEqual([error.status, error.code, error.param], [429, 'rate_limited', null]);
    assert.equal(error.type, 'rate_limit_error');
    const seconds = Number(error.headers.get('retry-after'));
    assert.ok(seconds >= 3590 && seconds <= 3601, `${seconds}`);
    const milliseconds = Number(error.headers.get('retry-after-ms'));
    assert.ok(milliseconds >= 3590_000 && milliseconds <= 3601_000, `${milliseconds}`);
    assert.equal(error.headers.get('x-ratelimit-limit-requests'), '1');
    assert.equal(error.headers.get('x-ratelimit-remaining-requests'), '0');
    assert.match(error.headers.get('x-ratelimit-reset-requests'), /^(1h0m0s|59m\d+s)$/);
    assert.deepEqual(await calls('node limited #2'), []);
    const { response } = await asking('node limited #3', 'bob').withResponse();
    assert.equal(response.headers.get('x-ratelimit-remaining-requests'), '0');
  },

  async 'what may be billed is not asked again'() {
    const ways = [false, true].map(async (stream) => {
      const prompt = `hangs #node ${stream}`;
      const hanging = asking(prompt, `eve-${stream}`, { stream });
      const error = await refused(OpenAI.InternalServerError, hanging);
      assert.deepEqual([error.status, error.code], [504, 'upstream_timeout']);
      assert.equal(error.headers.get('x-should-retry'), 'false');
      assert.equal((await calls(prompt)).length, 1);
    });
    await Promise.all(ways);
  },
};
