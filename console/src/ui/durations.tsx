// How long runs took: how many of the listed ones within each doubling of the time.
import { useMemo } from "preact/hooks";

import { duration } from "./formats";

/** Bars for milliseconds, each for twice the time of the one before. */
export function Durations({ of }: { of: { duration_ms?: number | null }[] }) {
  const taken = useMemo(() => of.map((one) => one.duration_ms).filter((one): one is number => typeof one === "number" && one > 0), [of]);
  const sorted = useMemo(() => Float64Array.from(taken).sort(), [taken]);
  if (taken.length < 5) return null;
  const buckets = new Map<number, number>();
  for (const one of taken) {
    const at = Math.floor(Math.log2(one));
    buckets.set(at, (buckets.get(at) ?? 0) + 1);
  }
  const [first, last] = [Math.min(...buckets.keys()), Math.max(...buckets.keys())];
  const most = Math.max(...buckets.values());
  const at = (part: number) => duration(sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]);
  return (
    <figure class="durations">
      <div role="img" aria-label={`Durations of ${taken.length} runs: half took ${at(0.5)} or less, 95 of 100 ${at(0.95)} or less`}>
        {Array.from({ length: last - first + 1 }, (_, n) => {
          const count = buckets.get(first + n) ?? 0;
          return <span key={n} style={{ height: `${Math.max(count ? 6 : 1, (100 * count) / most)}%` }} title={`${count} took ${duration(2 ** (first + n))} to ${duration(2 ** (first + n + 1))}`} />;
        })}
      </div>
      <figcaption>Of the listed runs, half took at most {at(0.5)}, and 95 of 100 at most {at(0.95)}</figcaption>
    </figure>
  );
}
