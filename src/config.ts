/**
 * THE option table. One entry makes the flag (`--batch-rows-max`), the environment variable (`PONDER_BATCH_ROWS_MAX`), the
 * default, the check, the help and a row of README's table. Units come last in the name. A flag wins over a variable, a
 * variable over the default; what is not in the table is refused, so that a misspelt limit never silently stays at its default.
 */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { ModelDescription } from './models/description.js';
import { didYouMean } from './nearest.js';

interface Option<T> {
  readonly default: T;
  /** How documents show a default that depends on the machine. */
  readonly defaultShown: string;
  /** What is allowed, to follow "must be". */
  readonly allowed: string;
  readonly help: string;
  /** The value of a text, or undefined when the text is not allowed. */
  readonly parse: (text: string) => T | undefined;
}

type Words = Pick<Option<unknown>, 'help'> & { readonly defaultShown?: string };

function integer(defaultValue: number, min: number, max: number, words: Words): Option<number> {
  return {
    default: defaultValue,
    defaultShown: String(defaultValue),
    allowed: `an integer from ${min} to ${max}`,
    parse: (text) => {
      const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
      return value >= min && value <= max ? value : undefined;
    },
    ...words,
  };
}

function text(defaultValue: string, words: Words): Option<string> {
  return {
    default: defaultValue,
    defaultShown: defaultValue,
    allowed: 'a text',
    parse: (value) => value || undefined,
    ...words,
  };
}

/** Blocks of models with attention spans are computed in units of this length (scheduler/span-blocks.ts); shorter ones in multiples of 16. */
export const SPAN_UNIT_TOKENS = 64;
export const SPAN_SHORT_MULTIPLE = 16;

function checkedText(defaultValue: string, allowed: string, pattern: RegExp, words: Words): Option<string> {
  return {
    default: defaultValue,
    defaultShown: defaultValue,
    allowed,
    parse: (value) => (pattern.test(value) ? value : undefined),
    ...words,
  };
}

/** A file that may be named; '' when it isn't. */
function file(help: string): Option<string> {
  return { default: '', defaultShown: 'none', allowed: 'a path', parse: (value) => value, help };
}

function choice<const T extends string>(values: readonly T[], defaultValue: T, words: Words): Option<T> {
  return {
    default: defaultValue,
    defaultShown: defaultValue,
    allowed: values.length > 2 ? `one of ${values.join(', ')}` : values.join(' or '),
    parse: (value) => values.find((candidate) => candidate === value),
    ...words,
  };
}

function list<T>(
  defaultValue: readonly T[],
  allowed: string,
  item: (text: string) => T | undefined,
  words: Words,
): Option<readonly T[]> {
  return {
    default: Object.freeze([...defaultValue]),
    defaultShown: defaultValue.join(','),
    allowed,
    parse: (value) => {
      const items = value.split(',').map((part) => item(part.trim()));
      return items.every((part) => part !== undefined) ? Object.freeze(items as T[]) : undefined;
    },
    ...words,
  };
}

/** The widest beam a request may ask for. */
export const BEAM_MAX = 8;

const MINUTE_MS = 60_000;
const DAY_MS = 1440 * MINUTE_MS;
const MIB = 1024 * 1024;

export const OPTIONS = {
  host: text('127.0.0.1', { help: 'Address to listen on; 0.0.0.0 or :: for every interface.' }),
  port: integer(8080, 0, 65535, { help: 'TCP port to listen on; 0 picks a free one.' }),
  models: text(fileURLToPath(new URL('../../models', import.meta.url)), {
    defaultShown: "the package's models/",
    help: 'Folder that holds the model packages, one subfolder each.',
  }),
  modelList: list<string>([], 'names of packages, separated by commas', (name) => name || undefined, {
    defaultShown: 'all',
    help: 'Packages to load.',
  }),
  modelControl: choice(['explicit', 'none', 'watch'], 'explicit', {
    help: 'Whether models come and go while the server runs: by POST /v2/repository/models/M/load and unload, not at all, or also by themselves as their folders do.',
  }),
  modelPollMs: integer(2000, 100, DAY_MS, {
    help: 'Interval at which --model-control watch looks into the models folder.',
  }),
  precision: choice(['int8', 'float32'], 'int8', {
    help: 'Arithmetic of the graphs; float32 is the variant for parity tests, about 3 times slower on the CPU.',
  }),
  backend: choice(['ort-capi', 'ort-node'], 'ort-capi', {
    help: "Runtime: ONNX Runtime's C API with bound state, or onnxruntime-node's public API (portable, slower).",
  }),
  device: checkedText(
    'auto',
    'auto, cpu, cuda:N or a list as cuda:0,cuda:1',
    /^(auto|cpu|cuda:\d{1,2}(,cuda:\d{1,2})*)$/,
    {
      help: 'Where models run that have graphs for a GPU: auto takes the first GPU that works, and the CPU without one. Of a list each has all models, and requests are dealt out.',
    },
  ),
  deviceRowsMax: integer(8192, 64, 8192, { help: 'Rows (positions) computed in one step on a GPU.' }),
  deviceLanesMax: integer(512, 1, 1024, { help: 'Sequences that run at a time in each cohort on a GPU.' }),
  deviceSlotsMax: integer(32_768, 64, 16 * MIB, {
    help: 'Positions whose state each cohort holds on a GPU (6 KiB each at width 512).',
  }),
  deviceCohorts: integer(2, 1, 4, {
    help: 'Cohorts of sequences that take turns on a GPU: while one runs, the host plans another.',
  }),
  deviceStepsMax: integer(4, 1, 16, {
    help: 'Steps launched at once on a GPU while no sequence is likely to end within them.',
  }),
  deviceCacheRowsMax: integer(262_144, 1, 16 * MIB, {
    help: "Rows of the decoder's key and value caches on a GPU (2 KiB each at width 512), half for greedy sentences and half for beams; full ones make requests wait.",
  }),
  workers: integer(1, 1, 64, {
    help: 'Processes that share the port, each with an engine of its own; sessions and the limits of keys are those of one process.',
  }),
  threads: integer(Math.max(1, availableParallelism()), 1, 1024, {
    defaultShown: 'cores available',
    help: 'Threads one step of a model may use.',
  }),
  batchRowsMax: integer(512, 1, 65536, { help: 'Rows (positions) computed in one step.' }),
  lanesMax: integer(256, 1, 65536, { help: 'Sequences that run at a time.' }),
  slotsMax: integer(8192, 1, 16 * MIB, {
    help: 'Positions whose state is held at a time, over all running sequences.',
  }),
  cacheRowsMax: integer(32_768, 1, 16 * MIB, {
    help: "Rows of a decoder's key and value cache (4 KiB each at width 512): positions times depths; a full one makes requests wait.",
  }),
  spanBlockTokens: integer(128, 16, 4096, {
    help: 'Tokens of one step of a long text, for models with attention spans: a multiple of 64, or 16, 32 or 48.',
  }),
  spanLanesMax: integer(32, 1, 4096, {
    help: 'Texts and sessions that hold a cache at a time, for each model with attention spans.',
  }),
  sessionsMax: integer(16, 0, 4095, {
    help: 'Sessions that are open at a time, for each model with attention spans; below --span-lanes-max; 0: none.',
  }),
  sessionIdleMsMax: integer(10 * MINUTE_MS, 1, DAY_MS, { help: 'Idle time after which a session is closed.' }),
  queueLanesMax: integer(4096, 1, 1_000_000, {
    help: 'Sequences waiting or running at a time; past it requests get 429.',
  }),
  queueTokensMax: integer(MIB, 1, 1024 * MIB, {
    help: 'Tokens of the sequences waiting or running at a time; past it requests get 429.',
  }),
  queueWaitMsMax: integer(30_000, 1, DAY_MS, {
    help: 'Longest wait for the first step: a request that would wait longer by the cost of what is in gets 429 at the door, one that did wait longer too.',
  }),
  latencyTargetMs: integer(0, 0, DAY_MS, {
    help: 'Latency that requests of quality adaptive are to meet: under pressure they get fewer steps. 0: they get all.',
  }),
  qualityStepsMin: integer(2, 1, 256, {
    help: 'Fewest steps that a request of quality adaptive may be given.',
  }),
  engineStallMsMax: integer(30_000, 100, DAY_MS, {
    help: 'Longest time without a sign of life from the engine while it has work; past it requests get 503 and it is restarted.',
  }),
  requestsMax: integer(2048, 1, 100_000, {
    help: 'Requests in work at a time, whatever they cost; past it requests get 429.',
  }),
  inputsMax: integer(1024, 1, 100_000, { help: 'Texts in one request.' }),
  bodyBytesMax: integer(4 * MIB, 1024, 256 * MIB, { help: 'Bytes of one request body; past it requests get 413.' }),
  bodiesBytesMax: integer(64 * MIB, 1024, 16384 * MIB, {
    help: 'Bytes of the bodies of all requests in work; past it requests get 429.',
  }),
  textBytesMax: integer(MIB, 1, 256 * MIB, { help: 'UTF-8 bytes of one input text; past it requests get 413.' }),
  deadlineMsDefault: integer(0, 0, DAY_MS, { help: 'Deadline of a request that names none; 0: none.' }),
  deadlineMsMax: integer(10 * MINUTE_MS, 1, DAY_MS, { help: 'Longest deadline that a request may name.' }),
  drainMsMax: integer(25_000, 0, DAY_MS, {
    help: 'Time that SIGTERM leaves to requests in work; below the 30 s after which Kubernetes kills.',
  }),
  connectionsMax: integer(2048, 1, 1_000_000, { help: 'Open connections; past it new ones are dropped.' }),
  headersTimeoutMs: integer(10_000, 100, DAY_MS, { help: 'Time a client has to send its headers; past it 408.' }),
  requestTimeoutMs: integer(30_000, 100, DAY_MS, { help: 'Time a client has to send its whole request; past it 408.' }),
  keepAliveMs: integer(65_000, 1, DAY_MS, {
    help: 'Time an idle connection stays open; longer than the 60 s of common load balancers.',
  }),
  replyStallMsMax: integer(30_000, 100, DAY_MS, {
    help: 'Time a client may stop reading its reply; past it the connection is closed.',
  }),
  headerBytesMax: integer(16_384, 1024, MIB, { help: 'Bytes of request line and headers; past it requests get 431.' }),
  apiKeysFile: file(
    'File with the API keys that requests need (docs/auth.md); read again at SIGHUP. PONDER_API_KEYS may hold them instead.',
  ),
  keyRequestsPerMinute: integer(0, 0, 1_000_000, {
    help: 'POST requests a minute of one API key that names no limit of its own; past it 429. 0: no limit.',
  }),
  keyConcurrentMax: integer(0, 0, 100_000, {
    help: 'POST requests of one API key in work at a time, unless it names its own limit; past it 429. 0: no limit.',
  }),
  corsOrigins: list<string>(
    [],
    'origins such as https://example.org separated by commas, or *',
    (origin) => (/^(\*|https?:\/\/[^\s/]+)$/.test(origin) ? origin : undefined),
    { defaultShown: 'none', help: 'Web pages of these origins may use the server from a browser.' },
  ),
  tlsCertFile: file('Certificate chain (PEM): the server then speaks HTTPS. Read again at SIGHUP.'),
  tlsKeyFile: file('Private key (PEM) of the certificate.'),
  logLevel: choice(['fatal', 'error', 'warn', 'info', 'debug', 'silent'], 'info', {
    help: 'Least severity that is logged (JSON lines on standard output); debug logs every request.',
  }),
  tracesUrl: text('none', {
    help: 'Where traces go (OpenTelemetry, OTLP over HTTP), such as http://collector:4318/v1/traces; none: nowhere.',
  }),
  latencyBucketsMs: list(
    [0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000],
    'rising numbers above 0, separated by commas',
    (part) => (/^\d+(\.\d+)?$/.test(part) && Number(part) > 0 ? Number(part) : undefined),
    { help: 'Upper bounds of the buckets of the latency histograms.' },
  ),
} as const satisfies Record<string, Option<unknown>>;

export type OptionName = keyof typeof OPTIONS;
export type Config = {
  readonly [K in OptionName]: (typeof OPTIONS)[K] extends Option<infer T> ? T : never;
};

/** The command line or the environment is wrong; the message is one line and names the remedy. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

export function optionNames(): readonly OptionName[] {
  return Object.keys(OPTIONS) as OptionName[];
}

/** `batchRowsMax` -> `--batch-rows-max` */
export function flagOf(name: OptionName): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

const VARIABLE_PREFIX = 'PONDER_';
/** Holds API keys: no option, because options are shown in logs and at /v1/info. */
export const KEYS_VARIABLE = 'PONDER_API_KEYS';
/** Read by our own tests, which start servers with their environment. */
const VARIABLES_OF_TESTS: readonly string[] = [
  'PONDER_CHROMIUM',
  'PONDER_PYTHON',
  'PONDER_SHARED',
  'PONDER_SIM_COUNT',
  'PONDER_SIM_SEED',
];

/** `batchRowsMax` -> `PONDER_BATCH_ROWS_MAX` */
export function variableOf(name: OptionName): string {
  return VARIABLE_PREFIX + name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
}

/**
 * The options in force, frozen. Flags are `--name value` or `--name=value`; of a flag given twice the last one counts.
 * An empty variable counts as unset, since that is what container tools make of a missing value.
 * @throws ConfigError
 */
export function parseConfig(argv: readonly string[], env: Readonly<Record<string, string | undefined>>): Config {
  const values: Partial<Record<OptionName, unknown>> = {};
  for (const name of optionNames()) values[name] = OPTIONS[name].default;

  const byVariable = new Map(optionNames().map((name) => [variableOf(name), name]));
  for (const [variable, value] of Object.entries(env)) {
    if (!variable.startsWith(VARIABLE_PREFIX) || !value || isServiceLink(variable, value)) continue;
    if (VARIABLES_OF_TESTS.includes(variable) || variable === KEYS_VARIABLE) continue;
    const name = byVariable.get(variable);
    if (name === undefined) {
      throw new ConfigError(`unknown environment variable ${variable}${didYouMean(variable, byVariable.keys())}`);
    }
    values[name] = parseValue(name, value, variable);
  }

  const byFlag = new Map(optionNames().map((name) => [flagOf(name), name]));
  for (let i = 0; i < argv.length; i++) {
    const [flag = '', inline] = splitOnce(argv[i] ?? '', '=');
    const name = byFlag.get(flag);
    if (name === undefined) {
      throw new ConfigError(
        flag.startsWith('-')
          ? `unknown option ${flag}${didYouMean(flag, byFlag.keys())} (--help lists them)`
          : `unexpected argument ${flag}: options are --name value (--help lists them)`,
      );
    }
    const value = inline ?? argv[++i];
    // What begins with -- is the next flag, unless it comes after =.
    if (value === undefined || (inline === undefined && value.startsWith('--')))
      throw new ConfigError(`${flag} needs a value: ${OPTIONS[name].allowed}`);
    values[name] = parseValue(name, value, flag);
  }

  const config = Object.freeze(values) as Config;
  assertRelations(config);
  return config;
}

/** The options in force as plain JSON, for `/v1/info` and logs. */
export function describeConfig(config: Config): Readonly<Record<string, unknown>> {
  return Object.fromEntries(optionNames().map((name) => [name, config[name]]));
}

/** The lines of `--help`. */
export function optionHelp(): string {
  return optionNames()
    .map((name) => {
      const { allowed, defaultShown, help } = OPTIONS[name];
      return `  ${flagOf(name)}  (${variableOf(name)})\n      ${help}\n      ${allowed}; default ${defaultShown}`;
    })
    .join('\n');
}

/**
 * Relations between the options and the models, once these are loaded.
 * @throws ConfigError
 */
export function assertServable(config: Config, models: readonly ModelDescription[]): void {
  // One window of the longest model must fit everywhere, or a request could wait for ever.
  for (const { id, contextTokens, maxSteps, task, span } of models) {
    if (span !== undefined) continue;
    for (const name of ['batchRowsMax', 'slotsMax', 'queueTokensMax', 'deviceRowsMax', 'deviceSlotsMax'] as const) {
      if (config[name] >= contextTokens) continue;
      throw new ConfigError(
        `${name} (${config[name]}) is below the context of ${id} (${contextTokens}): raise ${flagOf(name)}`,
      );
    }
    // The longest translation with the widest beam, or the longest generated text, every position at full depth.
    const rows = contextTokens * maxSteps * (task === 'translate' ? BEAM_MAX : 1);
    if (config.cacheRowsMax < rows) {
      throw new ConfigError(
        `cacheRowsMax (${config.cacheRowsMax}) is below what a request to ${id} can need (${rows}): raise --cache-rows-max`,
      );
    }
    const onDevice = 2 * rows * config.deviceCohorts;
    if (task === 'translate' && config.deviceCacheRowsMax < onDevice) {
      throw new ConfigError(
        `deviceCacheRowsMax (${config.deviceCacheRowsMax}) is below ${onDevice}: half of it is for greedy sentences, and in each of ` +
          `${config.deviceCohorts} cohorts a request to ${id} can need ${rows}; raise --device-cache-rows-max`,
      );
    }
  }
}

function assertRelations(config: Config): void {
  const atMost = (low: OptionName, high: OptionName): void => {
    if (Number(config[low]) <= Number(config[high])) return;
    throw new ConfigError(
      `${low} (${config[low]}) exceeds ${high} (${config[high]}): lower ${flagOf(low)} or raise ${flagOf(high)}`,
    );
  };
  const devices = config.device.split(',');
  if (new Set(devices).size < devices.length) {
    throw new ConfigError(`device (${config.device}) names a GPU twice: name each once in --device`);
  }
  atMost('batchRowsMax', 'slotsMax');
  atMost('lanesMax', 'slotsMax');
  // Sessions that held every cache would keep all other texts waiting until one of them is idle for too long.
  if (config.sessionsMax >= config.spanLanesMax) {
    throw new ConfigError(
      `sessionsMax (${config.sessionsMax}) is not below spanLanesMax (${config.spanLanesMax}): ` +
        'lower --sessions-max or raise --span-lanes-max',
    );
  }
  const { spanBlockTokens } = config;
  if (spanBlockTokens % (spanBlockTokens < SPAN_UNIT_TOKENS ? SPAN_SHORT_MULTIPLE : SPAN_UNIT_TOKENS) !== 0) {
    throw new ConfigError(
      `spanBlockTokens (${spanBlockTokens}) is no multiple of ${SPAN_UNIT_TOKENS}, nor 16, 32 or 48: change --span-block-tokens`,
    );
  }
  atMost('textBytesMax', 'bodyBytesMax');
  atMost('bodyBytesMax', 'bodiesBytesMax');
  atMost('deadlineMsDefault', 'deadlineMsMax');
  atMost('headersTimeoutMs', 'requestTimeoutMs');
  if ((config.tlsCertFile === '') !== (config.tlsKeyFile === '')) {
    throw new ConfigError('HTTPS needs both --tls-cert-file and --tls-key-file: set the other one too');
  }
  for (const [i, bound] of config.latencyBucketsMs.entries()) {
    const previous = config.latencyBucketsMs[i - 1] ?? 0;
    if (bound <= previous) {
      throw new ConfigError(`latencyBucketsMs must rise, but ${bound} follows ${previous}: sort --latency-buckets-ms`);
    }
  }
}

function parseValue(name: OptionName, value: string, source: string): unknown {
  const parsed = OPTIONS[name].parse(value);
  if (parsed === undefined) throw new ConfigError(`${source} must be ${OPTIONS[name].allowed}, not '${value}'`);
  return parsed;
}

/**
 * Kubernetes gives every container variables for each Service of its namespace: a Service named `ponder` makes
 * PONDER_SERVICE_HOST and PONDER_PORT=tcp://10.0.0.1:8080. They are nobody's options.
 */
function isServiceLink(variable: string, value: string): boolean {
  return /_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)/.test(variable) || /^(tcp|udp|sctp):\/\//.test(value);
}

function splitOnce(line: string, separator: string): [string, string?] {
  const at = line.indexOf(separator);
  return at < 0 ? [line] : [line.slice(0, at), line.slice(at + 1)];
}
