// What a search of the log has found, and one of them whole.
import { useState } from "preact/hooks";

import type { Schemas } from "../api/client";
import { to } from "../app/router";
import { inFull, moment } from "./formats";
import { Json } from "./json";
import { Dialog, Facts, Id } from "./parts";

type Item = Schemas["LogItem"];
const LONG = 300;

/** A list of messages. */
export function Found({ of }: { of: Item[] }) {
  const [opened, setOpened] = useState<Item | null>(null);
  return (
    <>
      <ol class="found">
        {of.map((one) => (
          <li key={`${one.stream}/${one.seq}/${one.line ?? ""}`} class={one.level}>
            <button type="button" class="bare" onClick={() => setOpened(one)}>
              <time dateTime={one.time} title={inFull(one.time)}>{moment(one.time)}</time>
              <b>{one.level}</b>
              <span class="kind">{one.workflow ?? one.service}</span>
              <span class="text">{one.message ? one.message.slice(0, LONG) : one.type}</span>
            </button>
          </li>
        ))}
      </ol>
      {opened && (
        <Dialog title={opened.type} close={() => setOpened(null)} wide>
          {opened.message && <pre>{opened.message}</pre>}
          <Facts of={[
            ["Time", inFull(opened.time)],
            ["Level", opened.level],
            ["Service", opened.service],
            ["Workflow", opened.workflow && <a href={to(`/workflows/${opened.workflow}`)}>{opened.workflow}</a>],
            ["Run", opened.run && <Id of={opened.run} href={to(`/runs/${opened.run}`)} />],
            ["Chain", <a href={to("/logs", { q: `correlation_id:"${opened.correlation_id}"`, from: "now-30d" })}>all of it</a>],
            ["Stream", `${opened.stream} ${opened.seq}`],
          ]} />
          {opened.fields && Object.keys(opened.fields).length > 0 && <><h3>Fields</h3><Json of={opened.fields} /></>}
          <h3>Data</h3>
          <Json of={opened.data} />
        </Dialog>
      )}
    </>
  );
}
