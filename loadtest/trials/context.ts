/** What the workloads of a trial draw from: the server's models at their own rule, without deadlines or keys. */
import { parseConfig } from '../../src/config.js';
import { loadCorpus } from '../texts.js';
import type { WorkloadContext } from '../workloads.js';

/** @param serverOptions of the server under test */
export async function trialContext(serverOptions: readonly string[]): Promise<WorkloadContext> {
  const corpus = await loadCorpus(null, parseConfig(serverOptions, process.env).models);
  return { corpus, depths: { score: 8, translate: 6 }, mode: 'adaptive', deadlineMs: null, tenants: [] };
}
