// Lines of output: only those that are seen are in the document, and the end is followed until somebody scrolls away from it.
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import type { Schemas } from "../api/client";
import { clock } from "./formats";
import { Empty, Text } from "./parts";

const HEIGHT = 22;
// Characters of one line that are shown in the list; the whole of it by opening it.
const LONG = 500;

/** The lines of a run; `ended`: no others come. */
export function Lines({ of, ended }: { of: Schemas["LineView"][]; ended: boolean }) {
  const at = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [opened, setOpened] = useState<Schemas["LineView"] | null>(null);
  const follows = useRef(true);
  useLayoutEffect(() => {
    if (at.current && follows.current) at.current.scrollTop = at.current.scrollHeight;
  }, [of.length]);
  if (of.length === 0) return <Empty>{ended ? "It said nothing." : "Nothing yet."}</Empty>;
  const first = Math.max(0, Math.floor(top / HEIGHT) - 20);
  const last = Math.min(of.length, first + 80);
  return (
    <>
      <div
        ref={at}
        class="log"
        role="log"
        aria-label="Lines"
        tabIndex={0}
        onScroll={({ currentTarget: box }) => {
          follows.current = box.scrollHeight - box.scrollTop - box.clientHeight < 2 * HEIGHT;
          setTop(box.scrollTop);
        }}
      >
        <div style={{ height: `${of.length * HEIGHT}px` }}>
          {of.slice(first, last).map((one, n) => (
            <div key={one.n} class={`line ${one.line.level}`} style={{ top: `${(first + n) * HEIGHT}px` }} onClick={() => !getSelection()?.toString() && setOpened(one)}>
              <time dateTime={one.line.time}>{clock(one.line.time)}</time>
              <b>{one.line.level}</b>
              <span>{one.line.message.slice(0, LONG)}</span>
              {Object.entries(one.line.fields ?? {}).slice(0, 8).map(([name, value]) => <i key={name}>{name}={JSON.stringify(value)?.slice(0, 80)}</i>)}
            </div>
          ))}
        </div>
      </div>
      {opened && (
        <div class="line-whole">
          <Text of={opened.line.message} />
          {Object.keys(opened.line.fields ?? {}).length > 0 && <Text of={JSON.stringify(opened.line.fields, null, 2)} />}
          <button type="button" class="small" onClick={() => setOpened(null)}>Close</button>
        </div>
      )}
    </>
  );
}
