/**
 * When requests arrive, in an open loop: the times are drawn before the first one is sent and do not wait for any answer. Milliseconds
 * from the beginning, rising. The same seed gives the same times.
 */
import type { Random } from '../test/seed.js';

/** Requests a second at this second of the run. */
export type Rate = (second: number) => number;

/** Independent arrivals at a constant rate. */
export function poisson(random: Random, perSecond: number, seconds: number): number[] {
  return varying(random, () => perSecond, perSecond, seconds);
}

/** A Poisson process whose rate varies, by thinning one at `peak` (Lewis and Shedler 1979). `rate` never exceeds `peak`. */
export function varying(random: Random, rate: Rate, peak: number, seconds: number): number[] {
  const times: number[] = [];
  if (!(peak > 0)) return times;
  for (let at = gap(random, peak); at < seconds; at += gap(random, peak)) {
    if (random.next() * peak < rate(at)) times.push(at * 1000);
  }
  return times;
}

/** Of the time between two arrivals, seconds. */
function gap(random: Random, perSecond: number): number {
  return -Math.log(1 - random.next()) / perSecond;
}

/** A quiet rate, and each `everySeconds` a burst of a tenth of that time; the mean is `perSecond`, the burst `times` the quiet rate. */
export function burstRate(perSecond: number, times: number, everySeconds: number): Rate {
  const BURST_SHARE = 0.1;
  const quiet = perSecond / (1 - BURST_SHARE + BURST_SHARE * times);
  return (second) => (second % everySeconds < BURST_SHARE * everySeconds ? quiet * times : quiet);
}

/** A day in `seconds`: a fifth of the mean at night, twice it in the afternoon, with the double hump of office hours. */
export function diurnalRate(perSecond: number, seconds: number): Rate {
  const shape = (hour: number) => {
    const hump = (at: number, width: number) => Math.exp(-(((hour - at) / width) ** 2));
    return 0.2 + 1.6 * hump(10, 2.5) + 1.8 * hump(15, 3) + 0.5 * hump(20, 2);
  };
  const hours = Array.from({ length: 240 }, (_, i) => i / 10);
  const mean = hours.reduce((sum, hour) => sum + shape(hour), 0) / hours.length;
  return (second) => (perSecond * shape(((second / seconds) * 24) % 24)) / mean;
}

/** The most that `rate` reaches, looked at every hundredth of the run. */
export function peakOf(rate: Rate, seconds: number): number {
  return Math.max(...Array.from({ length: 101 }, (_, i) => rate((seconds * i) / 100)), rate(0)) * 1.02;
}
