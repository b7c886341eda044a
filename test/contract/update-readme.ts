/** Writes README's tables from the code: `node dist/test/contract/update-readme.js` after a build. */
import { readFileSync, writeFileSync } from 'node:fs';
import { makeTables, README, withTables } from './documents.js';

writeFileSync(README, withTables(readFileSync(README, 'utf8'), await makeTables()));
