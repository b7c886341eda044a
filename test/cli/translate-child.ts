/** The command with an engine that takes its time, as a process of its own: the test of broken runs kills it. */
import { run } from '../../src/cli/translate.js';
import { ByteTokenizer } from '../fakes.js';
import { MODEL, SpeakingEngine } from '../translate/speaking-engine.js';

const engine = new SpeakingEngine();
engine.before = () => new Promise((resolve) => setTimeout(resolve, 5));
const stop = new AbortController();
process.on('SIGINT', () => stop.abort());
const code = await run(process.argv.slice(2), process, stop.signal, {
  env: {},
  loadModels: async () => ({ models: [MODEL], refused: [] }),
  loadTokenizer: async () => new ByteTokenizer(),
  startEngine: async () => engine,
});
process.exit(code);
