// Two versions of a text, with what was taken out and what came in.
import { diffLines } from "diff";

import { plainly } from "./formats";

/** The difference line by line; long stretches that are the same are left out. */
export function Changes({ from, to }: { from: string; to: string }) {
  const parts = diffLines(plainly(from), plainly(to));
  if (parts.every((one) => !one.added && !one.removed)) return <p class="empty">They are the same.</p>;
  return (
    <pre class="code changes" tabIndex={0} aria-label="Changes">
      {parts.map((one, n) => {
        const kind = one.added ? "added" : one.removed ? "removed" : "same";
        const lines = one.value.replace(/\n$/, "").split("\n");
        const shown = kind === "same" && lines.length > 8 ? [...lines.slice(0, 3), `… ${lines.length - 6} lines …`, ...lines.slice(-3)] : lines;
        return shown.map((line, m) => <span key={`${n}.${m}`} class={kind}>{`${kind === "added" ? "+" : kind === "removed" ? "-" : " "} ${line}\n`}</span>);
      })}
    </pre>
  );
}
