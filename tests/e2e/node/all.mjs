// Run all checks at once, and print what became of each as JSON: { theme: [outcome, ...] }.

import answers from './answers.mjs';
import errors from './errors.mjs';
import leaving from './leaving.mjs';
import limits from './limits.mjs';
import retries from './retries.mjs';

const DEADLINE_SECONDS = 25; // reached only by a check that hangs

async function outcome([name, check]) {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`not done in ${DEADLINE_SECONDS} s`)), DEADLINE_SECONDS * 1000);
  });
  try {
    const value = await Promise.race([check(), late]);
    return { name, failure: null, value: value ?? null };
  } catch (error) {
    return { name, failure: String(error?.stack ?? error), value: null };
  }
}

async function outcomes([theme, checks]) {
  return [theme, await Promise.all(Object.entries(checks).map(outcome))];
}

const themes = { answers, errors, leaving, limits, retries };
const report = Object.fromEntries(await Promise.all(Object.entries(themes).map(outcomes)));
process.stdout.write(JSON.stringify(report), () => process.exit(0));
