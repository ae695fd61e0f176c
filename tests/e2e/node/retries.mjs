// Asking again, and what it costs at the provider.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { all, ask, calls, client, open, refused, text } from './harness.mjs';

const openai = client({ maxRetries: 2 });
const once = client({ maxRetries: 0 });
const keyed = (key) => ({ headers: { 'Idempotency-Key': key } });

export default {
  async 'what failed once is asked again and succeeds'() {
    const said = await openai.chat.completions.create(ask('error once #node'));
    assert.equal(said.choices[0].message.content, 'echo: error once #node');
    assert.equal((await calls('error once #node')).length, 2);
  },

  async 'what fails again and again is asked twice by chatport itself'() {
    const counts = [];
    while (counts.at(-1) !== 2) { // as many as may be asked again at once may be others just now
      const prompt = `error 500 #node twice ${counts.length}`;
      const error = await refused(OpenAI.InternalServerError, once.chat.completions.create(ask(prompt)));
      assert.deepEqual([error.status, error.code], [502, 'upstream_error']);
      counts.push((await calls(prompt)).length);
    }
    assert.ok(counts.every((count) => count <= 2));
  },

  async 'what cannot help is not asked again'() {
    const asking = openai.chat.completions.create(ask('error 401 #node once'));
    const error = await refused(OpenAI.InternalServerError, asking);
    assert.equal(error.code, 'upstream_auth_failed');
    assert.equal((await calls('error 401 #node once')).length, 1);
  },

  async 'a key that was answered gets the same bytes again'() {
    for (const stream of [false, true]) {
      const prompt = `node twice #${stream}`;
      const asking = async () => {
        const call = openai.chat.completions.create(ask(prompt, { stream }), keyed(prompt));
        const response = await call.asResponse();
        // Comments tell of silence; they are no part of the answer.
        const said = (await response.text()).replaceAll(/^:.*\n\n/gm, '');
        return [response.headers.get('idempotency-replayed'), said];
      };
      const [fresh, first] = await asking();
      const [replayed, again] = await asking();
      assert.deepEqual([fresh, replayed], [null, 'true']);
      assert.equal(again, first);
      assert.equal((await calls(prompt)).length, 1);
      const said = await openai.chat.completions.create(ask(prompt, { stream }), keyed(prompt));
      const words = stream ? text(await all(said)) : said.choices[0].message.content;
      assert.equal(words, `echo: ${prompt}`);
    }
  },

  async 'a key whose call is running is in conflict until it has ended'() {
    const prompt = 'waits #node conflict';
    const first = openai.chat.completions.create(ask(prompt), keyed(prompt)).asResponse();
    await calls(prompt, 1);
    const impatient = { ...keyed(prompt), maxRetries: 0 };
    const asking = openai.chat.completions.create(ask(prompt), impatient);
    const error = await refused(OpenAI.ConflictError, asking);
    assert.deepEqual([error.status, error.code], [409, 'idempotency_in_progress']);
    assert.equal(error.headers.get('retry-after'), '1');
    await open(prompt);
    const again = await openai.chat.completions.create(ask(prompt), keyed(prompt)).asResponse();
    assert.equal(again.headers.get('idempotency-replayed'), 'true');
    assert.equal(await again.text(), await (await first).text());
    assert.equal((await calls(prompt)).length, 1);
  },

  async 'a key of another request is refused'() {
    await openai.chat.completions.create(ask('node reused #1'), keyed('node reused'));
    const asking = openai.chat.completions.create(ask('node reused #2'), keyed('node reused'));
    const error = await refused(OpenAI.UnprocessableEntityError, asking);
    assert.deepEqual([error.status, error.code], [422, 'idempotency_key_reused']);
    assert.deepEqual(await calls('node reused #2'), []);
  },

  async 'a retry after the client’s own timeout joins the running call'() {
    const prompt = 'waits #node joined';
    const counts = [];
    // Whether the retry finds the call running or just ended: it must not start another.
    const watched = (url, init) => {
      const response = fetch(url, init);
      counts.push(new Headers(init.headers).get('x-stainless-retry-count'));
      if (counts.at(-1) === '1') open(prompt);
      return response;
    };
    const hasty = client({ maxRetries: 2, timeout: 1000, fetch: watched });
    const said = await hasty.chat.completions.create(ask(prompt));
    assert.equal(said.choices[0].message.content, 'echo: waits #node joined');
    assert.deepEqual(counts, ['0', '1']);
    assert.equal((await calls(prompt)).length, 1);
  },
};
