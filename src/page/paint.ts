/** Measures, as the browser's performance entries, how long it takes from a reply until what it changed is on the screen. */
export function paintedSince(name: string, sinceMs: number): Promise<number> {
  return new Promise((resolve) => {
    // The frame's work is done when the first task after it runs.
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        const { duration } = performance.measure(name, { start: sinceMs, end: performance.now() });
        port1.close();
        resolve(duration);
      };
      port2.postMessage(null);
    });
  });
}
