import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Compiled tests lie in dist/test. */
const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const PACKAGES = ['libretranslatepy', 'deep_translator'];

/**
 * A Python that has the clients: the environment that .ci/run makes, one beside the checkout, or the system's.
 * @returns the interpreter, or why there is none
 * @throws when PONDER_PYTHON names one that hasn't: who names it wants the test to run
 */
export function pythonWithClients(): { readonly python: string } | { readonly missing: string } {
  const { PONDER_PYTHON } = process.env;
  const candidates = PONDER_PYTHON
    ? [PONDER_PYTHON]
    : [`${ROOT}/.cache/venv/bin/python`, `${ROOT}/../venv/bin/python`, 'python3'];
  for (const python of candidates) {
    try {
      execFileSync(python, ['-c', `import ${PACKAGES.join(', ')}`], { stdio: 'ignore' });
      return { python };
    } catch {
      // The next one may have them.
    }
  }
  const missing = `no Python with ${PACKAGES.join(' and ')}: pip install -r test/clients/requirements.txt, or set PONDER_PYTHON`;
  if (PONDER_PYTHON) throw new Error(missing);
  return { missing };
}

export const CLIENT_SCRIPT = `${ROOT}/test/clients/libretranslate_clients.py`;
