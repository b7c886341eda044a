import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  assertServable,
  ConfigError,
  describeConfig,
  flagOf,
  OPTIONS,
  optionHelp,
  optionNames,
  parseConfig,
  variableOf,
} from '../src/config.js';
import { describeModel } from './fakes.js';

function refusal(argv: string[], env: Record<string, string> = {}): string {
  try {
    parseConfig(argv, env);
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    assert.ok(!error.message.includes('\n'), 'one line');
    return error.message;
  }
  assert.fail(`${argv.join(' ')} was accepted`);
}

test('every option is at its default when nothing is said', () => {
  const config = parseConfig([], {});
  for (const name of optionNames()) assert.deepEqual(config[name], OPTIONS[name].default, name);
});

test('every default satisfies its own check, so it can be written out as a flag', () => {
  for (const name of optionNames()) {
    const value = OPTIONS[name].default;
    if (name === 'modelList' || name === 'corsOrigins') continue; // "all" and "none" have no text of their own
    const config = parseConfig([flagOf(name), String(value)], {});
    assert.deepEqual(config[name], value, name);
  }
});

test('a flag wins over a variable, a variable over the default, and the last of two flags counts', () => {
  assert.equal(parseConfig([], { PONDER_PORT: '9001' }).port, 9001);
  assert.equal(parseConfig(['--port', '9000'], { PONDER_PORT: '9001' }).port, 9000);
  assert.equal(parseConfig(['--port=9000', '--port', '9002'], {}).port, 9002);
  assert.equal(parseConfig([], { PONDER_PORT: '', HOME: '/root' }).port, 8080);
});

test('lists are split at commas', () => {
  assert.deepEqual(parseConfig(['--model-list', 'a, b'], {}).modelList, ['a', 'b']);
  assert.deepEqual(parseConfig(['--latency-buckets-ms', '0.1,2'], {}).latencyBucketsMs, [0.1, 2]);
});

test('the configuration is frozen, lists included', () => {
  const config = parseConfig(['--model-list', 'a'], {});
  for (const value of [config, config.modelList, config.latencyBucketsMs]) assert.ok(Object.isFrozen(value));
});

test('an unknown flag or variable is refused with the nearest match', () => {
  assert.match(refusal(['--batch-row-max', '3']), /unknown option --batch-row-max: did you mean --batch-rows-max\?/);
  assert.match(refusal([], { PONDER_TREADS: '3' }), /PONDER_TREADS: did you mean PONDER_THREADS\?/);
  assert.match(refusal(['--zzzzzz', '3']), /unknown option --zzzzzz \(--help lists them\)/);
  assert.match(refusal(['9000']), /unexpected argument 9000/);
});

test('a value out of range names the option and what is allowed', () => {
  assert.match(refusal(['--port', '65536']), /--port must be an integer from 0 to 65535, not '65536'/);
  assert.match(refusal([], { PONDER_PRECISION: 'fp8' }), /PONDER_PRECISION must be int8 or float32, not 'fp8'/);
  for (const value of ['', '-1', '1.5', '1e3', 'NaN', '0x10', ' 1']) refusal([`--port=${value}`]);
  assert.match(refusal(['--latency-buckets-ms', '1,-2']), /rising numbers above 0/);
  assert.match(refusal(['--port']), /--port needs a value/);
  assert.match(refusal(['--models', '--port', '80']), /--models needs a value: a text/);
});

test('relations between options are checked, and the message says which flag to change', () => {
  const message = refusal(['--batch-rows-max', '512', '--slots-max', '256']);
  assert.equal(message, 'batchRowsMax (512) exceeds slotsMax (256): lower --batch-rows-max or raise --slots-max');
  refusal(['--text-bytes-max', '2000000', '--body-bytes-max', '1000000']);
  refusal(['--deadline-ms-default', '700000']);
  refusal(['--headers-timeout-ms', '60000']);
  assert.match(refusal(['--latency-buckets-ms', '2,1']), /1 follows 2/);
});

test('blocks of a text are whole units, or shorter than one', () => {
  for (const tokens of [16, 32, 48, 64, 128, 4096]) parseConfig(['--span-block-tokens', `${tokens}`], {});
  for (const tokens of [20, 65, 80, 96, 100])
    assert.throws(() => parseConfig(['--span-block-tokens', `${tokens}`], {}), /multiple of 64.*--span-block-tokens/);
});

test('several GPUs: each is named once', () => {
  assert.equal(parseConfig(['--device', 'cuda:0,cuda:2'], {}).device, 'cuda:0,cuda:2');
  assert.throws(() => parseConfig(['--device', 'cuda:0,cuda:0'], {}), /names a GPU twice.*--device/);
  assert.throws(() => parseConfig(['--device', 'cpu,cuda:0'], {}), /device/);
});

test('relations to the models are checked once these are known', () => {
  const model = describeModel({ id: 'wide', contextTokens: 500 });
  assertServable(parseConfig([], {}), [model]);
  const small = parseConfig(['--batch-rows-max', '256'], {});
  assert.throws(
    () => assertServable(small, [model]),
    /batchRowsMax \(256\) is below the context of wide \(500\): raise/,
  );
});

test("Kubernetes' service links are nobody's options", () => {
  const links = {
    PONDER_SERVICE_HOST: '10.0.0.1',
    PONDER_SERVICE_PORT: '80',
    PONDER_SERVE_SERVICE_PORT_HTTP: '80',
    PONDER_PORT: 'tcp://10.0.0.1:80',
    PONDER_PORT_80_TCP_ADDR: '10.0.0.1',
  };
  assert.equal(parseConfig([], links).port, 8080);
});

test('variables of our own tests are no options', () => {
  assert.equal(parseConfig([], { PONDER_PYTHON: '/usr/bin/python3', PONDER_SIM_COUNT: '10' }).port, 8080);
});

test('names of flags and variables follow from the key', () => {
  assert.equal(flagOf('batchRowsMax'), '--batch-rows-max');
  assert.equal(variableOf('batchRowsMax'), 'PONDER_BATCH_ROWS_MAX');
});

test('help and description mention every option', () => {
  const help = optionHelp();
  const described = describeConfig(parseConfig([], {}));
  for (const name of optionNames()) {
    assert.ok(help.includes(`${flagOf(name)} `), name);
    assert.ok(name in described, name);
  }
});
