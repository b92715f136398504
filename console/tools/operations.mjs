// Writes what the console knows of each operation before it has asked for anything: how it is called, and who may.
import { readFileSync, writeFileSync } from "node:fs";

const [from, to] = process.argv.slice(2);
const { paths } = JSON.parse(readFileSync(from, "utf8"));
const lines = Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods)
    .filter(([, one]) => path.startsWith("/api/") || path === "/readyz")
    .map(([method, one]) => {
      const takesOrg = (one.parameters ?? []).some((each) => each.in === "query" && each.name === "org");
      return `  ${one.operationId}: ${JSON.stringify([method.toUpperCase(), path, one["x-role"] ?? null, one["x-platform"] ?? false, takesOrg])},`;
    }),
);
const head = "// Made by tools/operations.mjs: method, path, least role, whether it takes a role in `global`, whether it is of an organization.\n";
writeFileSync(to, `${head}export const OPERATIONS = {\n${lines.join("\n")}\n} as const;\n`);
