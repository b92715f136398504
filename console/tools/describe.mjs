// Has the gateway describe its API: the types of the client are those of this very tree.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";

const python = process.env.PYTHON ?? ".venv/bin/python";
const code = [
  "import sys, msgspec",
  "from services.gateway.api.application import ENDPOINTS",
  "from services.gateway.api.document import document",
  "sys.stdout.buffer.write(msgspec.json.encode(document(ENDPOINTS)))",
].join("\n");
mkdirSync("node_modules/.millrace", { recursive: true });
writeFileSync("node_modules/.millrace/openapi.json", execFileSync(python, ["-c", code], { cwd: "..", maxBuffer: 1 << 26 }));
