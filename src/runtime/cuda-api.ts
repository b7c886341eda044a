/**
 * The CUDA runtime as typed functions, from the library that ONNX Runtime's CUDA provider needs anyway. Every call that fails throws a
 * RuntimeFailure with CUDA's own words. Nothing is loaded before the first call of `cudaApi`.
 */
import { RuntimeFailure } from './backend.js';
import { loadNative } from './native-calls.js';
import type { Pointer } from './ort-api.js';

/** name: C parameters; every function returns a cudaError_t. */
const SIGNATURES = {
  cudaGetDeviceCount: 'void *count',
  cudaSetDevice: 'int device',
  cudaGetDeviceProperties: 'void *properties, int device',
  cudaDriverGetVersion: 'void *version',
  cudaMemGetInfo: 'void *free, void *total',
  cudaMalloc: 'void *out, size_t bytes',
  cudaFree: 'void *pointer',
  cudaHostAlloc: 'void *out, size_t bytes, unsigned int flags',
  cudaFreeHost: 'void *pointer',
  cudaMemcpyAsync: 'void *to, void *from, size_t bytes, int kind, void *stream',
  cudaMemsetAsync: 'void *pointer, int value, size_t bytes, void *stream',
  cudaStreamCreateWithFlags: 'void *out, unsigned int flags',
  cudaStreamDestroy: 'void *stream',
  cudaStreamSynchronize: 'void *stream',
  cudaStreamBeginCapture: 'void *stream, int mode',
  cudaStreamEndCapture: 'void *stream, void *out',
  cudaGraphGetNodes: 'void *graph, void *nodes, void *count',
  cudaGraphNodeGetType: 'void *node, void *type',
  cudaGraphMemcpyNodeGetParams: 'void *node, void *parameters',
  cudaPointerGetAttributes: 'void *attributes, void *pointer',
  cudaGraphInstantiate: 'void *out, void *graph, uint64_t flags',
  cudaGraphLaunch: 'void *executable, void *stream',
  cudaGraphDestroy: 'void *graph',
  cudaGraphExecDestroy: 'void *executable',
  cudaEventCreateWithFlags: 'void *out, unsigned int flags',
  cudaEventRecord: 'void *event, void *stream',
  cudaEventSynchronize: 'void *event',
  cudaEventElapsedTime: 'void *milliseconds, void *began, void *ended',
  cudaEventDestroy: 'void *event',
} as const;

/** What a question is answered with by failing: not yet. */
const NOT_READY = 600;

type Argument = Pointer | number | NodeJS.ArrayBufferView | null;
export type CudaApi = { readonly [name in keyof typeof SIGNATURES]: (...args: Argument[]) => void } & {
  /** Whether an event has been passed. */
  readonly cudaEventQuery: (event: Pointer) => boolean;
};

const LIBRARIES = ['libcudart.so.13', '/usr/local/cuda/lib64/libcudart.so.13'];

let loaded: CudaApi | null = null;

/** Throws RuntimeFailure when there is no CUDA runtime of version 13 to load. */
export function cudaApi(): CudaApi {
  if (loaded !== null) return loaded;
  const library = openFirst(LIBRARIES);
  const message = library.func('const char *cudaGetErrorString(int error)') as (error: number) => string;
  const clear = library.func('int cudaGetLastError()') as () => number;
  // CUDA keeps a thread's last error, also "not ready" and what a caller has dealt with: whoever asks next, in the runtime, would take it for its own.
  const failure = (name: string, error: number) => {
    clear();
    return new RuntimeFailure(name, `${message(error)} (CUDA error ${error})`);
  };
  const query = library.func('int cudaEventQuery(void *event)') as (event: Pointer) => number;
  const cudaEventQuery = (event: Pointer): boolean => {
    const error = query(event);
    if (error === 0) return true;
    if (error !== NOT_READY) throw failure('cudaEventQuery', error);
    clear();
    return false;
  };
  const api: Record<string, unknown> = { cudaEventQuery };
  for (const [name, parameters] of Object.entries(SIGNATURES)) {
    const call = library.func(`int ${name}(${parameters})`) as (...args: Argument[]) => number;
    api[name] = (...args: Argument[]) => {
      const error = call(...args);
      if (error !== 0) throw failure(name, error);
    };
  }
  loaded = api as CudaApi;
  return loaded;
}

function openFirst(files: readonly string[]): ReturnType<typeof loadNative> {
  const reasons: string[] = [];
  for (const file of files) {
    try {
      return loadNative(file);
    } catch (error) {
      reasons.push((error as Error).message);
    }
  }
  throw new RuntimeFailure('cuda', `no CUDA runtime: ${reasons.join('; ')}`);
}

/** Name and memory of each device that CUDA sees. */
export function cudaDevices(): readonly string[] {
  const api = cudaApi();
  const count = new Int32Array(1);
  api.cudaGetDeviceCount(count);
  return Array.from({ length: count[0] as number }, (_, device) => {
    // cudaDeviceProp begins with its name; it has about 1 KiB in all, more in later versions.
    const properties = Buffer.alloc(8192);
    api.cudaGetDeviceProperties(properties, device);
    return properties.toString('latin1', 0, properties.indexOf(0));
  });
}
