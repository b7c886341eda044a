/** Calls `fire` after `ms`; returns how to call that off. Tests bring timers of their own. */
export type Timers = (ms: number, fire: () => void) => () => void;

export const realTimers: Timers = (ms, fire) => {
  const timer = setTimeout(fire, ms);
  return () => clearTimeout(timer);
};

/** The same, but the process may end before it fires. */
export const backgroundTimers: Timers = (ms, fire) => {
  const timer = setTimeout(fire, ms).unref();
  return () => clearTimeout(timer);
};
