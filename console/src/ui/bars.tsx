// A small histogram without axes: how much there was over a stretch of time.

/** Bars of counts, the oldest on the left. */
export function Bars({ of }: { of: { time: string; count: number }[] }) {
  const most = Math.max(1, ...of.map((one) => one.count));
  const width = 100 / Math.max(1, of.length);
  return (
    <svg class="bars" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">
      {of.map((one, n) => {
        const height = one.count === 0 ? 0 : Math.max(1.5, (24 * one.count) / most);
        return <rect key={one.time} x={n * width} y={24 - height} width={Math.max(0.3, width - 0.4)} height={height} />;
      })}
    </svg>
  );
}
