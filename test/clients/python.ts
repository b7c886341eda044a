import { execFile, execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Compiled tests lie in dist/test. */
const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

export type FoundPython = { readonly python: string } | { readonly missing: string };

/**
 * A Python that has the clients: the environment that .ci/run makes, one beside the checkout, or the system's.
 * @param modules that must import
 * @param requirements the file in test/clients/ that has them
 * @returns the interpreter, or why there is none
 * @throws when PONDER_PYTHON names one that hasn't what requirements.txt has: who names it wants the test to run
 */
export function pythonWith(modules: readonly string[], requirements = 'requirements.txt'): FoundPython {
  const { PONDER_PYTHON } = process.env;
  const candidates = PONDER_PYTHON
    ? [PONDER_PYTHON]
    : [`${ROOT}/.cache/venv/bin/python`, `${ROOT}/../venv/bin/python`, 'python3'];
  for (const python of candidates) {
    try {
      execFileSync(python, ['-c', `import ${modules.join(', ')}`], { stdio: 'ignore' });
      return { python };
    } catch {
      // The next one may have them.
    }
  }
  const missing = `no Python with ${modules.join(' and ')}: pip install -r test/clients/${requirements}, or set PONDER_PYTHON`;
  if (PONDER_PYTHON && requirements === 'requirements.txt') throw new Error(missing);
  return { missing };
}

/** Runs a script of test/clients/ and returns what it printed, which is JSON. Rejects with its traceback when it fails. */
export async function runClient(python: string, script: string, args: readonly string[]): Promise<unknown> {
  const { stdout } = await promisify(execFile)(python, [`${ROOT}/test/clients/${script}`, ...args], {
    maxBuffer: 16 * 1024 * 1024,
  });
  return JSON.parse(stdout);
}
