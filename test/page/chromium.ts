/** A headless Chromium for the tests of the page: Debian's package, or the one that PONDER_CHROMIUM names. */
import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/snap/bin/chromium'];

/**
 * @returns the program, or why there is none
 * @throws when PONDER_CHROMIUM names one that isn't there: who names it wants the tests to run
 */
export function findChromium(): { readonly program: string } | { readonly missing: string } {
  const { PONDER_CHROMIUM } = process.env;
  const program = (PONDER_CHROMIUM ? [PONDER_CHROMIUM] : PLACES).find((place) => existsSync(place));
  if (program !== undefined) return { program };
  const missing = 'no Chromium: apt-get install chromium, or set PONDER_CHROMIUM to the program';
  if (PONDER_CHROMIUM) throw new Error(missing);
  return { missing };
}

/** Without its own sandbox, which containers and root don't allow; it opens nothing but our own pages. */
export function launch(program: string): Promise<Browser> {
  return chromium.launch({ executablePath: program, args: ['--no-sandbox'] });
}
