/** Loading native libraries: koffi takes its settings only before the first one. */
import koffi from 'koffi';

// Creating a session of ONNX Runtime runs deep in native code and overflows koffi's default stack of 1 MiB.
const NATIVE_STACK_BYTES = 8 << 20;

let configured = false;

/** Throws as koffi does when there is no such library. */
export function loadNative(file: string): ReturnType<typeof koffi.load> {
  if (!configured) koffi.config({ sync_stack_size: NATIVE_STACK_BYTES, async_stack_size: NATIVE_STACK_BYTES });
  configured = true;
  return koffi.load(file);
}
