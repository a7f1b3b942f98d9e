// Prints what AsyncAPI's parser reports as an error in a document; exits with 1 if it can't read it.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const ERROR = 0;
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
for (const { severity, path, message } of diagnostics) {
  if (severity === ERROR) console.log(`${path.join(".")}: ${message}`);
}
process.exit(document ? 0 : 1);
