// What a search of the log has found, and one of them whole.
import { useState } from "preact/hooks";

import type { Schemas } from "../api/client";
import { to } from "../app/router";
import { inFull, moment } from "./formats";
import { Json } from "./json";
import { Dialog, Facts, Id, Text } from "./parts";

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
              <span class="text"><bdi>{one.message ? one.message.slice(0, LONG) : one.type}</bdi>{Object.entries(one.fields ?? {}).slice(0, 6).map(([name, value]) => <i key={name}> {name}={JSON.stringify(value)?.slice(0, 80)}</i>)}</span>
            </button>
          </li>
        ))}
      </ol>
      {opened && <Whole of={opened} close={() => setOpened(null)} />}
    </>
  );
}

/** One message whole, in a window. */
export function Whole({ of, close }: { of: Item; close: () => void }) {
  return (
    <Dialog title={of.type} close={close} wide>
      {of.message && <Text of={of.message} />}
      <Facts of={[
        ["Time", inFull(of.time)],
        ["Level", of.level],
        ["Service", of.service],
        ["Workflow", of.workflow && <a href={to(`/workflows/${of.workflow}`)}>{of.workflow}</a>],
        ["Run", of.run && <Id of={of.run} href={to(`/runs/${of.run}`)} />],
        ["Chain", <a href={to("/logs", { q: `correlation_id:"${of.correlation_id}"`, from: "now-30d" })}>all of it</a>],
        ["Stream", `${of.stream} ${of.seq}`],
      ]} />
      {of.fields && Object.keys(of.fields).length > 0 && <><h3>Fields</h3><Json of={of.fields} /></>}
      <h3>Data</h3>
      <Json of={of.data} />
    </Dialog>
  );
}
