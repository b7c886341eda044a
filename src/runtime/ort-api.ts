/**
 * ONNX Runtime's C API as typed functions: a table of pointers, read by index from the library that onnxruntime-node ships.
 * The table is append-only, so an index never changes its meaning; we ask for version 17, which every newer runtime offers.
 * Pointers are bigints. Every call that can fail returns a status, null when it went well; `check` turns it into a RuntimeFailure.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import koffi from 'koffi';
import { RuntimeFailure } from './backend.js';
import { loadNative } from './native-calls.js';

export type Pointer = bigint;
type Status = Pointer | null;

const API_VERSION = 17;

const RTLD_NOW = 2;
const RTLD_NODELETE = 0x1000;

/** name: [index in OrtApi, C signature without the leading `OrtStatus *name`]. Releases return nothing. */
const SIGNATURES = {
  createSession: [7, 'void *f(void *env, const char *file, void *options, void *out)'],
  createSessionOptions: [10, 'void *f(void *out)'],
  disableMemPattern: [17, 'void *f(void *options)'],
  setGraphOptimizationLevel: [23, 'void *f(void *options, int level)'],
  sessionGetInputCount: [30, 'void *f(void *session, void *out)'],
  sessionGetOutputCount: [31, 'void *f(void *session, void *out)'],
  sessionGetInputTypeInfo: [33, 'void *f(void *session, size_t index, void *out)'],
  sessionGetOutputTypeInfo: [34, 'void *f(void *session, size_t index, void *out)'],
  sessionGetInputName: [36, 'void *f(void *session, size_t index, void *allocator, void *out)'],
  sessionGetOutputName: [37, 'void *f(void *session, size_t index, void *allocator, void *out)'],
  createTensorWithData: [
    49,
    'void *f(void *memory, void *data, size_t bytes, void *shape, size_t rank, int type, void *out)',
  ],
  castTypeInfoToTensorInfo: [55, 'void *f(void *info, void *out)'],
  getTensorElementType: [60, 'void *f(void *info, void *out)'],
  getDimensionsCount: [61, 'void *f(void *info, void *out)'],
  getDimensions: [62, 'void *f(void *info, void *out, size_t rank)'],
  getSymbolicDimensions: [63, 'void *f(void *info, void *out, size_t rank)'],
  createCpuMemoryInfo: [69, 'void *f(int allocatorType, int memoryType, void *out)'],
  allocatorFree: [76, 'void *f(void *allocator, void *pointer)'],
  getAllocator: [78, 'void *f(void *out)'],
  createEnvWithGlobalThreadPools: [119, 'void *f(int logLevel, const char *id, void *threading, void *out)'],
  disablePerSessionThreads: [120, 'void *f(void *options)'],
  createThreadingOptions: [121, 'void *f(void *out)'],
  runWithBinding: [133, 'void *f(void *session, void *runOptions, void *binding)'],
  createMemoryInfo: [68, 'void *f(const char *name, int allocatorType, int id, int memoryType, void *out)'],
  createRunOptions: [39, 'void *f(void *out)'],
  addRunConfigEntry: [165, 'void *f(void *options, const char *key, const char *value)'],
  appendCudaProvider: [204, 'void *f(void *options, void *cuda)'],
  createCudaOptions: [205, 'void *f(void *out)'],
  updateCudaOptions: [206, 'void *f(void *options, const char **keys, const char **values, size_t count)'],
  registerCustomOps: [228, 'void *f(void *options, const char *file)'],
  createAllocator: [131, 'void *f(void *session, void *memory, void *out)'],
  createIoBinding: [134, 'void *f(void *session, void *out)'],
  bindInput: [136, 'void *f(void *binding, const char *name, void *value)'],
  bindOutput: [137, 'void *f(void *binding, const char *name, void *value)'],
  setGlobalIntraOpThreads: [147, 'void *f(void *threading, int threads)'],
  setGlobalInterOpThreads: [148, 'void *f(void *threading, int threads)'],
  setGlobalSpinControl: [149, 'void *f(void *threading, int spin)'],
} as const;

const RELEASES = {
  releaseEnv: 92,
  releaseStatus: 93,
  releaseMemoryInfo: 94,
  releaseSession: 95,
  releaseValue: 96,
  releaseTypeInfo: 98,
  releaseSessionOptions: 100,
  releaseThreadingOptions: 122,
  releaseAllocator: 132,
  releaseIoBinding: 135,
  releaseRunOptions: 97,
  releaseCudaOptions: 208,
} as const;

type Argument = Pointer | number | string | readonly string[] | NodeJS.ArrayBufferView | null;
type Call = (...args: Argument[]) => void;
export type OrtApi = { readonly [name in keyof typeof SIGNATURES]: Call } & {
  readonly [name in keyof typeof RELEASES]: (pointer: Pointer) => void;
} & {
  /** Version of the loaded library, such as 1.29.0. */
  readonly version: string;
};

let loaded: OrtApi | null = null;
// When the library object is collected every function pointer dangles, so it is held for the life of the process.
const held: unknown[] = [];

/** Where onnxruntime-node keeps the library. Throws RuntimeFailure on a platform that it does not ship for. */
export function ortLibraryFile(): string {
  const require = createRequire(import.meta.url);
  const folder = path.join(path.dirname(require.resolve('onnxruntime-node/package.json')), 'bin', 'napi-v6');
  const name = { linux: 'libonnxruntime.so.1', darwin: 'libonnxruntime.1.dylib', win32: 'onnxruntime.dll' }[
    process.platform as string
  ];
  if (name === undefined)
    throw new RuntimeFailure('ort-capi', `no ONNX Runtime library for ${process.platform}; use --backend ort-node`);
  return path.join(folder, process.platform, process.arch, name);
}

/** The function table, loaded once a process (or worker). Throws RuntimeFailure when the library can't be loaded. */
export function ortApi(): OrtApi {
  if (loaded !== null) return loaded;
  const file = ortLibraryFile();
  let base: Pointer;
  try {
    const lib = loadNative(file);
    held.push(lib);
    pin(file);
    base = lib.func('void *OrtGetApiBase()')() as Pointer;
  } catch (error) {
    throw new RuntimeFailure('ort-capi', `${(error as Error).message}; run npm ci again, or use --backend ort-node`);
  }
  const slot = (table: Pointer, index: number) => koffi.decode(table, index * 8, 'void *') as Pointer;
  const bind = <F>(pointer: Pointer, signature: string) => koffi.decode(pointer, koffi.proto(signature)) as F;
  const getApi = bind<(version: number) => Pointer>(slot(base, 0), koffiName('void *f(uint32_t version)'));
  const version = bind<() => string>(slot(base, 1), koffiName('const char *f()'))();
  const table = getApi(API_VERSION);
  const message = bind<(status: Pointer) => string>(slot(table, 2), koffiName('const char *f(void *status)'));

  const api: Record<string, unknown> = { version };
  for (const [name, index] of Object.entries(RELEASES)) {
    api[name] = bind(slot(table, index), koffiName('void f(void *pointer)'));
  }
  const releaseStatus = api.releaseStatus as (status: Pointer) => void;
  for (const [name, [index, signature]] of Object.entries(SIGNATURES)) {
    const call = bind<(...args: unknown[]) => Status>(slot(table, index), koffiName(signature));
    api[name] = (...args: unknown[]) => {
      const status = call(...args);
      if (status === null) return;
      const text = message(status);
      releaseStatus(status);
      throw new RuntimeFailure(name, text);
    };
  }
  loaded = api as unknown as OrtApi;
  return loaded;
}

/**
 * Keeps the library where it is for the life of the process. A thread that ends gives it back, and with the last one it would be unmapped;
 * what a killed thread left would then point into nothing, and releasing it would take the process down.
 */
function pin(file: string): void {
  if (process.platform !== 'linux') return;
  const libc = koffi.load('libc.so.6');
  const dlopen = libc.func('void *dlopen(const char *file, int flags)') as (file: string, flags: number) => Pointer;
  dlopen(file, RTLD_NOW | RTLD_NODELETE);
}

let prototypes = 0;
/** koffi wants a name of its own for every prototype of a process; workers share the registry. */
function koffiName(signature: string): string {
  return signature.replace(' *f(', ` *Ort${++prototypes}(`).replace('void f(', `void Ort${++prototypes}(`);
}
