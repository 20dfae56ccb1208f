// The official SDK beside the service: does what it is told, a line of JSON each, and says what came of it.
// `node beside_sdk.mjs SDK PORT TOKEN PROVIDER_URL`
import { createInterface } from "node:readline";

const [sdk, port, connectionToken, baseUrl] = process.argv.slice(2);
const { CopilotClient, RuntimeConnection, approveAll } = await import(sdk);
const client = new CopilotClient({ connection: RuntimeConnection.forUri(`127.0.0.1:${port}`, { connectionToken }) });
await client.start();

const sessions = new Map();
const config = { streaming: true, onPermissionRequest: approveAll };
const acts = {
    create: async ({ id }) => {
        const own = { sessionId: id, model: "scripted", provider: { type: "openai", baseUrl, apiKey: "none" } };
        sessions.set(id, await client.createSession({ ...config, ...own }));
    },
    resume: async ({ id }) => {
        sessions.set(id, await client.resumeSession(id, config));
    },
    ask: async ({ id, prompt }) => (await sessions.get(id).sendAndWait({ prompt }))?.data.content,
    send: ({ id, prompt }) => sessions.get(id).send({ prompt }),
    abort: ({ id }) => sessions.get(id).abort(),
    model: ({ id, model }) => sessions.get(id).rpc.model.switchTo({ modelId: model }),
    name: ({ id, name }) => sessions.get(id).rpc.name.set({ name }),
    delete: ({ id }) => client.deleteSession(id),
};

for await (const line of createInterface({ input: process.stdin })) {
    const { n, act, ...what } = JSON.parse(line);
    const say = (told) => console.log(JSON.stringify({ n, ...told }));
    Promise.resolve(what)
        .then(acts[act])
        .then((result) => say({ result: result ?? null }))
        .catch((error) => say({ error: String(error) }));
}
