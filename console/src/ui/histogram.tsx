// How much there was over a stretch of time, by level; a part of it is chosen by drawing over it, or by the keyboard.
import { useRef, useState } from "preact/hooks";

import type { Schemas } from "../api/client";
import { inFull } from "./formats";

const LEVELS = ["critical", "error", "warning", "info", "debug"];

/** Bars with their times; `choose` is told what was drawn over, as RFC 3339. */
export function Brushed({ of, choose }: { of: Schemas["Histogram"]; choose: (from: string, to: string) => void }) {
  const at = useRef<SVGSVGElement>(null);
  const [drawn, setDrawn] = useState<[number, number] | null>(null);
  const [begin, end] = [Date.parse(of.since), Date.parse(of.until)];
  const whole = Math.max(1, end - begin);
  const most = Math.max(1, ...of.items.map((one) => one.count));
  const place = (event: PointerEvent) => {
    const box = at.current?.getBoundingClientRect();
    return box ? Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) : 0;
  };
  const chosen = ([a, b]: [number, number]) => {
    const [from, to] = [Math.min(a, b), Math.max(a, b)];
    if (to - from > 0.004) choose(new Date(begin + from * whole).toISOString(), new Date(begin + to * whole).toISOString());
  };
  return (
    <figure class="histogram">
      <svg
        ref={at}
        viewBox="0 0 1000 80"
        preserveAspectRatio="none"
        role="img"
        aria-label={`${of.count} from ${inFull(of.since)} to ${inFull(of.until)}`}
        onPointerDown={(event) => { event.currentTarget.setPointerCapture(event.pointerId); setDrawn([place(event), place(event)]); }}
        onPointerMove={(event) => drawn && setDrawn([drawn[0], place(event)])}
        onPointerUp={() => { if (drawn) chosen(drawn); setDrawn(null); }}
      >
        {of.items.map((bar) => {
          const x = (1000 * (Date.parse(bar.time) - begin)) / whole;
          const width = Math.max(1, (1000 * of.step * 1000) / whole - 1);
          let top = 80;
          return [...LEVELS].reverse().map((level) => {
            const count = bar.levels[level] ?? 0;
            if (!count) return null;
            const height = Math.max(1.5, (76 * count) / most);
            top -= height;
            return <rect key={`${bar.time}${level}`} class={level} x={x} y={top} width={width} height={height}><title>{`${inFull(bar.time)}: ${count} ${level}`}</title></rect>;
          });
        })}
        {drawn && <rect class="drawn" x={1000 * Math.min(...drawn)} y="0" width={1000 * Math.abs(drawn[1] - drawn[0])} height="80" />}
      </svg>
      <figcaption><time dateTime={of.since}>{inFull(of.since)}</time><span>{of.count.toLocaleString("en")} found</span><time dateTime={of.until}>{inFull(of.until)}</time></figcaption>
    </figure>
  );
}
