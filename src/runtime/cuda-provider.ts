/**
 * The CUDA provider of ONNX Runtime as it lies in npm's registry, and what it needs of the machine. onnxruntime-node's own script would fetch it from
 * NuGet, unverified; this package holds the same release, and both its digest and those of its two files are written down here.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import koffi from 'koffi';
import { ortLibraryFile } from './ort-api.js';
import { CUDA_PROVIDER } from './ort-cuda.js';

export interface ProviderFile {
  readonly name: string;
  /** Folder inside the package. */
  readonly from: string;
  readonly sha256: string;
}

export interface ProviderPackage {
  readonly name: string;
  readonly version: string;
  /** Of the tarball, as npm writes it. */
  readonly integrity: string;
  /** Release of onnxruntime-node that it belongs to: the two exchange C++ objects. */
  readonly onnxruntime: string;
  /** The last one is what the engine looks for, so it comes last. */
  readonly files: readonly ProviderFile[];
}

const FROM = 'package/Plugins/Linux/x64';

export const PROVIDER_PACKAGE: ProviderPackage = {
  name: 'com.github.asus4.onnxruntime.linux-x64-gpu',
  version: '0.4.9',
  integrity: 'sha512-FopIhNE/Ng+v2X65wVc9clPCBCvhvA53Hxo2U0Kf5fGdVsC7iCA+mZ0KLWggcQAj7TIZ6pNidR4AC10g74Xo6w==',
  onnxruntime: '1.29.0',
  files: [
    {
      name: 'libonnxruntime_providers_shared.so',
      from: FROM,
      sha256: 'c6a12593396095f5670160e284c35d1700b7708cf3037b7042e2a5200ccae772',
    },
    {
      name: CUDA_PROVIDER,
      from: FROM,
      sha256: '56cf3254b118ad837ccc4ed8f6d1b23504bbf7ef91b34cbc0b289cb7f10b3037',
    },
  ],
};

/** The folder of libonnxruntime.so.1, where ONNX Runtime looks for providers. */
export function providerFolder(): string {
  return path.dirname(ortLibraryFile());
}

export async function onnxruntimeVersion(): Promise<string> {
  const file = createRequire(import.meta.url).resolve('onnxruntime-node/package.json');
  return (JSON.parse(await readFile(file, 'utf8')) as { version: string }).version;
}

/** Names of the package's files that the folder lacks, or has in another form. */
export async function filesMissing({ files }: ProviderPackage, folder: string): Promise<string[]> {
  const missing: string[] = [];
  for (const { name, sha256 } of files) {
    const file = path.join(folder, name);
    if (!existsSync(file) || (await digest(file, 'sha256', 'hex')) !== sha256) missing.push(name);
  }
  return missing;
}

export async function digest(file: string, algorithm: string, encoding: 'hex' | 'base64'): Promise<string> {
  const hash = createHash(algorithm);
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest(encoding);
}

export interface NeededLibrary {
  readonly file: string;
  readonly what: string;
  readonly remedy: string;
  /** The provider loads without it. */
  readonly optional?: true;
}

const TOOLKIT = (apt: string, pip: string) => `apt-get install ${apt}, or pip install '${pip}'`;

/** What the provider is linked to (readelf -d), and cuDNN, which it opens when a kernel asks for it. */
export const NEEDED_LIBRARIES: readonly NeededLibrary[] = [
  {
    file: 'libcuda.so.1',
    what: "NVIDIA's driver",
    remedy: 'install the driver of branch 580 or later (CUDA 13); in a container, docker run --gpus all',
  },
  {
    file: 'libcudart.so.13',
    what: 'CUDA runtime 13',
    remedy: TOOLKIT('cuda-cudart-13-0', 'nvidia-cuda-runtime==13.0.*'),
  },
  { file: 'libcublasLt.so.13', what: 'cuBLASLt 13', remedy: TOOLKIT('libcublas-13-0', 'nvidia-cublas==13.0.*') },
  { file: 'libcublas.so.13', what: 'cuBLAS 13', remedy: TOOLKIT('libcublas-13-0', 'nvidia-cublas==13.0.*') },
  { file: 'libcurand.so.10', what: 'cuRAND 10', remedy: TOOLKIT('libcurand-13-0', 'nvidia-curand==10.4.*') },
  {
    file: 'libcudnn.so.9',
    what: 'cuDNN 9',
    remedy: `${TOOLKIT('libcudnn9-cuda-13', 'nvidia-cudnn-cu13==9.*')}; only reductions of graphs that run without the native operators ask for it`,
    optional: true,
  },
];

/** Where the remedies find what they name. */
export const REMEDY_HINT =
  "The apt packages are NVIDIA's own (its repository for your distribution); those of pip lie in site-packages/nvidia/cu13/lib, which has to be on " +
  'LD_LIBRARY_PATH. Or take the container: docker build --target cuda.';

/** Whether the loader finds it: on LD_LIBRARY_PATH, or in the system's cache. */
export function canLoad(file: string): boolean {
  try {
    koffi.load(file);
    return true;
  } catch {
    return false;
  }
}
